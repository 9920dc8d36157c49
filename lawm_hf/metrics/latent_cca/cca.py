# SPDX-License-Identifier: Apache-2.0
"""Held-out canonical correlations; a file of its own, so that using it needs numpy only."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


def held_out_cca(
    z_train: Array, y_train: Array, z_test: Array, y_test: Array, regularization: float = 1e-3
) -> list[float]:
    """Canonical correlations of rows `(M, P)` and `(M, Q)`, fitted on one set, taken on another.

    Args:
        z_train: Latents to fit on.
        y_train: Their counterparts.
        z_test: Latents to judge on.
        y_test: Their counterparts.
        regularization: Added to each covariance, as a share of its largest eigenvalue.

    Returns:
        `min(P, Q)` correlations, in the order of the fit; near 0 for unrelated rows.
    """
    z_mean, y_mean = z_train.mean(0), y_train.mean(0)
    z, y = z_train - z_mean, y_train - y_mean
    z_white, y_white = (_inverse_root(x.T @ x / len(x), regularization) for x in (z, y))
    left, _, right = np.linalg.svd(z_white @ (z.T @ y / len(z)) @ y_white, full_matrices=False)
    z_parts = (z_test - z_mean) @ z_white @ left  # (M, min(P, Q))
    y_parts = (y_test - y_mean) @ y_white @ right.T
    return [_correlation(a, b) for a, b in zip(z_parts.T, y_parts.T, strict=True)]


def check_rows(rows: Mapping[str, Array]) -> None:
    """Refuse rows `(M, P)` and `(M, Q)` whose correlations would mean nothing.

    Args:
        rows: By name: two to fit on, then two to judge on.

    Raises:
        ValueError: If there are fewer than two, or they do not pair, are not finite, or do not
            vary where it is fitted.
    """
    names = [*rows]
    for name in names:
        if rows[name].ndim != 2 or len(rows[name]) < 2 or not np.isfinite(rows[name]).all():
            raise ValueError(
                f"`{name}` must be two or more rows of finite numbers, got {rows[name].shape}. "
                "Leave out clips that are not."
            )
    for one, other, axis in ((0, 1, 0), (2, 3, 0), (0, 2, 1), (1, 3, 1)):
        a, b = rows[names[one]].shape, rows[names[other]].shape
        if a[axis] != b[axis]:
            what = "as many rows" if axis == 0 else "rows of one width"
            raise ValueError(
                f"`{names[one]}` and `{names[other]}` must have {what}, got {a} and {b}."
            )
    for name in names[:2]:
        if not rows[name].std(0).any():
            raise ValueError(f"`{name}` must vary, got one row {len(rows[name])} times.")


def _inverse_root(covariance: Array, regularization: float) -> Array:
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0) + regularization * values.max() + 1e-12
    return (vectors / np.sqrt(values)) @ vectors.T


def _correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale > 1e-12 else 0.0
