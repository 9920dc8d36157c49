# SPDX-License-Identifier: Apache-2.0
"""How much of the true actions latent actions know, as a metric of `evaluate`."""

from typing import Any

import datasets
import evaluate
import numpy as np

from .cca import check_rows, held_out_cca

_DESCRIPTION = (
    "Canonical correlations of latent actions and true actions, fitted on some clips and taken on "
    "others: all components, in the order of the fit."
)
_INPUTS = """
Args:
    predictions: Latents to judge on, a row of P numbers per sample.
    references: The true actions of the same samples, rows of Q numbers.
    fit_predictions: Latents of *other* clips, on which the directions are fitted.
    fit_references: Their true actions.
    regularization: Added to each covariance, as a share of its largest eigenvalue.

Returns:
    canonical_correlations: min(P, Q) numbers in [-1, 1]; near 0 for unrelated rows.
"""
_CITATION = """
@article{hotelling1936,
  title = {Relations Between Two Sets of Variates},
  author = {Hotelling, Harold},
  journal = {Biometrika},
  volume = {28}, number = {3/4}, pages = {321--377}, year = {1936}
}
"""


class LatentCCA(evaluate.Metric):
    """Held-out canonical correlations of latents and actions."""

    def _info(self) -> evaluate.MetricInfo:
        rows = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": rows, "references": rows}),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        predictions: list[list[float]],
        references: list[list[float]],
        fit_predictions: Any = None,
        fit_references: Any = None,
        regularization: float = 1e-3,
    ) -> dict[str, list[float]]:
        if fit_predictions is None or fit_references is None:
            raise ValueError(
                "`fit_predictions` and `fit_references` must be rows of other clips: correlations "
                "taken where they were fitted flatter any latent. Split your clips, and pass both."
            )
        told = {"fit_predictions": fit_predictions, "fit_references": fit_references}
        told |= {"predictions": predictions, "references": references}
        rows = {name: np.asarray(value, dtype=np.float64) for name, value in told.items()}
        check_rows(rows)
        z_fit, y_fit, z, y = rows.values()
        return {"canonical_correlations": held_out_cca(z_fit, y_fit, z, y, regularization)}
