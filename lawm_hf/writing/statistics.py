# SPDX-License-Identifier: Apache-2.0
"""Statistics of a column of numbers that need not fit into memory."""

import numpy as np

QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)
_MOST_ROWS = 1 << 19


class ColumnStatistics:
    """Rows `(n, ...)` come in turn; up to half a million are kept, and all is exact.

    Of more, minimum, maximum, mean and deviation still are of all rows, and quantiles are of every
    second, fourth, ... row: a quarter of a million at least.
    """

    def __init__(self):
        self._rows: list[np.ndarray] = []
        self._num_kept = self._num_seen = 0
        self._stride = 1

    def add(self, values: np.ndarray) -> None:
        """Take the next rows."""
        if not len(values):
            return
        self._add_moments(values.astype(np.float64))
        kept = values[-self._num_seen % self._stride :: self._stride]
        self._rows.append(kept)
        self._num_kept += len(kept)
        self._num_seen += len(values)
        while self._num_kept > _MOST_ROWS:
            self._rows = [np.concatenate(self._rows)[::2]]
            self._num_kept, self._stride = len(self._rows[0]), 2 * self._stride

    def _add_moments(self, values: np.ndarray) -> None:
        count, mean = len(values), values.mean(0)
        squares = ((values - mean) ** 2).sum(0)
        if not self._num_seen:
            self._low, self._high = values.min(0), values.max(0)
            self._mean, self._squares = mean, squares
            return
        self._low = np.minimum(self._low, values.min(0))
        self._high = np.maximum(self._high, values.max(0))
        shift, share = mean - self._mean, count / (self._num_seen + count)
        self._mean = self._mean + share * shift
        self._squares = self._squares + squares + shift**2 * self._num_seen * share

    def result(self) -> dict[str, list]:
        """`min`, `max`, `mean`, `std` and quantiles, each of a row's shape; and `count`."""
        stats = _exact(np.concatenate(self._rows))
        if self._stride > 1:
            std = np.sqrt(self._squares / self._num_seen)
            of_all = {"min": self._low, "max": self._high, "mean": self._mean, "std": std}
            stats |= {k: np.atleast_1d(v).tolist() for k, v in of_all.items()}
            stats["count"] = [self._num_seen]
        return stats


def _exact(values: np.ndarray) -> dict[str, list]:
    """Of rows `(n, ...)`, as LeRobot names them."""
    shape = values.shape[1:] or (1,)
    values = values.reshape(len(values), -1).astype(np.float64)
    stats = {
        "min": values.min(0),
        "max": values.max(0),
        "mean": values.mean(0),
        "std": values.std(0),
        "count": np.array([len(values)]),
    }
    quantiles = np.quantile(values, QUANTILES, axis=0)
    stats |= {f"q{int(q * 100):02d}": v for q, v in zip(QUANTILES, quantiles, strict=True)}
    return {k: v.reshape((1,) if k == "count" else shape).tolist() for k, v in stats.items()}
