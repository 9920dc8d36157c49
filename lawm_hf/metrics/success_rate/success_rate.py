# SPDX-License-Identifier: Apache-2.0
"""Success rate of a robot policy, as a metric of `evaluate`."""

from typing import Any

import datasets
import evaluate

from .wilson import wilson_interval

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
            features=datasets.Features({"predictions": datasets.Value("bool")}),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, predictions: list[bool], tasks: list[str] | None = None
    ) -> dict[str, Any]:
        result = _rate(predictions)
        if tasks is None:
            return result
        if len(tasks) != len(predictions):
            raise ValueError(
                f"`tasks` must name the task of each episode, got {len(tasks)} names for "
                f"{len(predictions)} episodes. Give one name per prediction, in the same order."
            )
        by_task: dict[str, list[bool]] = {task: [] for task in sorted(set(tasks))}
        for task, is_success in zip(tasks, predictions, strict=True):
            by_task[task].append(is_success)
        return result | {"per_task": {task: _rate(rows) for task, rows in by_task.items()}}


def _rate(rows: list[bool]) -> dict[str, Any]:
    successes = sum(rows)
    return {
        "success_rate": successes / max(len(rows), 1),
        "interval_95": list(wilson_interval(successes, len(rows))),
        "successes": successes,
        "episodes": len(rows),
    }
