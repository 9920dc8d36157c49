# SPDX-License-Identifier: Apache-2.0
"""Success rate of a robot policy, as a metric of `evaluate`."""

from typing import Any

import datasets
import evaluate

from .wilson import success_rates

_DESCRIPTION = "Share of successful episodes with its 95 % Wilson interval, overall and by task."
_INPUTS = """
Args:
    predictions: For each episode, whether it succeeded.
    tasks: For each episode, the name of its task; for rates by task.

Returns:
    success_rate, interval_95 (low, high), successes, episodes; with `tasks` also per_task: name ->
    the same four.

Example:
    >>> metric = evaluate.load("success_rate")
    >>> metric.compute(predictions=[True, True, True, False])["interval_95"]
    [0.300..., 0.954...]
"""
_CITATION = """
@article{wilson1927,
  title = {Probable Inference, the Law of Succession, and Statistical Inference},
  author = {Wilson, Edwin B.},
  journal = {Journal of the American Statistical Association},
  volume = {22}, number = {158}, pages = {209--212}, year = {1927}
}
"""


class SuccessRate(evaluate.Metric):
    """Success rate with its 95 % Wilson interval."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            # Not bool, which would take any number or word for true.
            features=datasets.Features({"predictions": datasets.Value("float64")}),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, predictions: list[bool], tasks: list[str] | None = None
    ) -> dict[str, Any]:
        return success_rates(predictions, tasks)
