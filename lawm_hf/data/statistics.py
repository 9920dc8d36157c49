# SPDX-License-Identifier: Apache-2.0
"""Statistics of states and actions, by which they are scaled."""

import itertools
from collections.abc import Sequence

import numpy as np

from ..writing.text import get_logger

logger = get_logger(__name__)

STATISTICS = ("min", "max", "mean", "std", "q01", "q99")
LARGEST = 1e9  # of a robot's numbers: those beyond are fill values, whose squares overflow
_WIDE = 1000  # times what 98 % of the values span: nobody means that


def statistics(values: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics over the rows of `(n, P)`; each `(P,)`, float32."""
    q01, q99 = np.quantile(values, [0.01, 0.99], axis=0)
    parts = values.min(0), values.max(0), values.mean(0), values.std(0), q01, q99
    return {k: np.asarray(v, np.float32) for k, v in zip(STATISTICS, parts, strict=True)}


def check_statistics(found: dict[str, np.ndarray]) -> None:
    """Refuse what cannot be statistics of the same numbers.

    Raises:
        ValueError: If they contradict each other.
    """
    order = ("min", "q01", "q99", "max"), ("min", "mean", "max")
    slack = 1e-3 * (np.abs(found["min"]) + np.abs(found["max"])) + 1e-6
    for low, high in (pair for names in order for pair in itertools.pairwise(names)):
        if (found[low] > found[high] + slack).any():
            raise ValueError(f"its `{low}` is larger than its `{high}`")


def merge_statistics(
    parts: Sequence[dict[str, np.ndarray]], weights: Sequence[float]
) -> dict[str, np.ndarray]:
    """Statistics of a mixture with weights that sum to 1; its quantiles are bounds."""
    if len(parts) == 1:
        return parts[0]
    column = {k: np.stack([np.asarray(p[k]) for p in parts]) for k in STATISTICS}
    share = np.asarray(weights)[:, None]
    mean = (share * column["mean"]).sum(0)
    square = (share * (column["std"] ** 2 + column["mean"] ** 2)).sum(0)
    low = {k: column[k].min(0) for k in ("min", "q01")}
    high = {k: column[k].max(0) for k in ("max", "q99")}
    std = np.sqrt(np.maximum(square - mean**2, 0))
    return {k: v.astype(np.float32) for k, v in {**low, **high, "mean": mean, "std": std}.items()}


def warn_of_outliers(name: str, found: dict[str, np.ndarray]) -> None:
    """Say which dimensions a few values stretch so far that scaling leaves nothing of the rest."""
    common = found["q99"] - found["q01"]
    for i in np.flatnonzero((found["max"] - found["min"] > _WIDE * common) & (common > 0)):
        logger.warning(
            "Dimension %d of the %s reaches from %g to %g, but 98 %% of it lies in %g to %g: "
            "scaled by the first, it is nearly constant. Leave those clips out (`,episodes=` or "
            "`,manifest=` in the spec).",
            *(i, name, *(found[key][i] for key in ("min", "max", "q01", "q99"))),
        )
