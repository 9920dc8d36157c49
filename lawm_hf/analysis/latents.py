# SPDX-License-Identifier: Apache-2.0
"""Numbers about latents: how they are spread, and what can be read from them linearly.

All probes are fitted on one set of clips and judged on another; in-sample figures flatter any
latent, and so do offsets that depend only on the step (`remove_step_offsets`).
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Array = NDArray[np.floating]


def effective_rank(rows: Array) -> float:
    """Number of directions in which `(M, D)` rows vary: exp of the entropy of their variances.

    Roy and Vetterli, The effective rank (2007), on the spectrum of the covariance. 1 when all rows
    lie on one line, `D` when they vary equally in every direction, 0 when they do not vary.
    """
    variances = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    if variances.sum() < 1e-12 * len(rows):
        return 0.0
    shares = variances / variances.sum()
    return float(np.exp(-(shares * np.log(shares + 1e-12)).sum()))


def saturated_share(latents: Array, threshold: float = 0.97) -> float:
    """Share of numbers so close to ±1 that tanh passes less than a sixteenth of a gradient."""
    return float((np.abs(latents) > threshold).mean())


def lag_correlation(latents: Array) -> float:
    """Correlation of neighbouring steps of `(M, N, A)` latents: 1 is smooth, 0 unrelated.

    What each step has in common over all clips is removed first.
    """
    centred = remove_step_offsets(latents, latents)
    before, after = centred[:, :-1].ravel(), centred[:, 1:].ravel()
    scale = np.sqrt((before**2).sum() * (after**2).sum())
    return float((before * after).sum() / scale) if scale > 1e-12 else 0.0


def remove_step_offsets(chunks: Array, reference: Array) -> Array:
    """Subtract from `(M, N, D)` chunks the mean of each step, taken from the reference chunks.

    Without this, two constant sequences that merely change over the chunk seem correlated.
    """
    return chunks - reference.mean(0)


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


def ridge_predict(x_train: Array, y_train: Array, x_test: Array) -> Array:
    """Predict `(M, Q)` from `(M, P)` linearly; leave-one-out on the fit chooses the penalty."""
    probe = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-2, 5, 15)))
    return probe.fit(x_train, y_train).predict(x_test).reshape(len(x_test), *y_train.shape[1:])


def ridge_r2(x_train: Array, y_train: Array, x_test: Array, y_test: Array) -> float:
    """Share of the held-out variance, all columns together, that a linear probe explains."""
    predicted = ridge_predict(x_train, y_train, x_test)
    return float(r2_score(y_test, predicted, multioutput="variance_weighted"))


def _inverse_root(covariance: Array, regularization: float) -> Array:
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0) + regularization * values.max() + 1e-12
    return (vectors / np.sqrt(values)) @ vectors.T


def _correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale > 1e-12 else 0.0
