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


def ridge_predict(x_train: Array, y_train: Array, x_test: Array) -> Array:
    """Predict `(M, Q)` from `(M, P)` linearly; leave-one-out on the fit chooses the penalty."""
    probe = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-2, 5, 15)))
    return probe.fit(x_train, y_train).predict(x_test).reshape(len(x_test), *y_train.shape[1:])


def ridge_r2(x_train: Array, y_train: Array, x_test: Array, y_test: Array) -> float:
    """Share of the held-out variance, all columns together, that a linear probe explains."""
    predicted = ridge_predict(x_train, y_train, x_test)
    return float(r2_score(y_test, predicted, multioutput="variance_weighted"))


def used_dimensions(actions: Array) -> np.ndarray:
    """Which of the D dimensions of `(M, N, D)` actions vary: rotations may never be used."""
    return actions.std((0, 1)) > 1e-6
