# SPDX-License-Identifier: Apache-2.0
"""Normalisation of robot states and actions by data-set statistics."""

import logging
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

logger = logging.getLogger(__name__)

NormalizationMode = Literal["min_max", "quantile", "mean_std", "identity"]
# Names as in the `meta/stats.json` of LeRobot datasets, which can be passed as they are.
_NEEDED = {"min_max": ("min", "max"), "quantile": ("q01", "q99"), "mean_std": ("mean", "std")}

Statistics = Mapping[str, Sequence[float]]


class Normalizer:
    """`(x - offset) / scale` in each dimension, and back.

    A dimension that never varies in the statistics becomes 0, and comes back as its constant.

    Args:
        mode: `min_max` maps [min, max] to [-1, 1]; `quantile` maps [q01, q99] and clips what lies
            outside (beware: the quantiles of a whole dataset in LeRobot's `meta/stats.json` are
            means of each episode's quantiles, hence too narrow); `mean_std` gives zero mean and
            unit variance; `identity` changes nothing.
        statistics: Lists of numbers by LeRobot's names; `None` if unknown.
        name: `"state"` or `"action"`, for messages.
    """

    def __init__(self, mode: NormalizationMode, statistics: Statistics | None, name: str):
        if mode not in get_args(NormalizationMode):
            raise ValueError(
                f"`{name}_normalization` must be one of {', '.join(get_args(NormalizationMode))}, "
                f"got {mode!r}."
            )
        self.mode, self.name, self.constant_dimensions = mode, name, []
        self.offset: Tensor | None = None
        self.scale: Tensor | None = None
        if mode != "identity" and statistics is not None:
            self._fit(statistics)

    def _fit(self, statistics: Statistics) -> None:
        missing = [key for key in _NEEDED[self.mode] if key not in statistics]
        if missing:
            raise ValueError(
                f"`{self.name}_stats` must hold {' and '.join(_NEEDED[self.mode])} for "
                f"{self.mode!r}, got {sorted(statistics)}. Choose another "
                f"`{self.name}_normalization`, or compute the statistics again."
            )
        first, second = (
            torch.as_tensor(statistics[key], dtype=torch.float64) for key in _NEEDED[self.mode]
        )
        if first.ndim != 1 or first.shape != second.shape or not (first + second).isfinite().all():
            raise ValueError(
                f"`{self.name}_stats` must hold one finite number per dimension, got "
                f"{dict(statistics)}."
            )
        if self.mode == "quantile" and {"min", "max"} <= set(statistics):
            # A dimension that is rarely used (a gripper) has equal quantiles and yet varies.
            rare = first == second
            first = torch.where(rare, torch.as_tensor(statistics["min"]).to(first), first)
            second = torch.where(rare, torch.as_tensor(statistics["max"]).to(first), second)
        if self.mode == "mean_std":
            offset, scale = first, second
        else:
            offset, scale = (first + second) / 2, (second - first) / 2
        least = 1e-6 * offset.abs().clamp(min=1e-3)
        if (scale < -least).any():
            raise ValueError(
                f"`{self.name}_stats` must not have a range below zero, got "
                f"{dict(zip(_NEEDED[self.mode], (first.tolist(), second.tolist()), strict=True))}. "
                "Compute the statistics again."
            )
        is_constant = scale <= least
        self.constant_dimensions = is_constant.nonzero().flatten().tolist()
        if is_constant.all():
            logger.warning(
                "No dimension of the %s varies: nothing can be learned there.", self.name
            )
        elif self.constant_dimensions:
            logger.info("Constant dimensions of the %s: %s", self.name, self.constant_dimensions)
        self.offset, self.scale = offset.float(), scale.masked_fill(is_constant, 0).float()

    def normalize(self, values: Tensor, is_absent: Tensor | None = None) -> Tensor:
        """Normalise `(..., D)`; rows where `is_absent` `(...)` may hold anything and become 0.

        Raises:
            ValueError: If the statistics are absent or of another width, or a value is not finite.
        """
        if is_absent is not None:
            values = values.masked_fill(is_absent[..., None], 0)
        if not values.isfinite().all():
            bad = (~values.isfinite()).nonzero()[0].tolist()
            raise ValueError(
                f"Every {self.name} must be finite, got {values[tuple(bad)].item()} at {bad}. "
                "Drop these frames, or mask them as padding."
            )
        if self.mode == "identity":
            return values
        offset, scale = self._on(values)
        normalised = torch.where(scale > 0, (values - offset) / scale.clamp(min=1e-12), 0.0)
        if is_absent is not None:
            normalised = normalised.masked_fill(is_absent[..., None], 0)
        return normalised.clamp(-1, 1) if self.mode == "quantile" else normalised

    def unnormalize(self, values: Tensor) -> Tensor:
        """Undo `normalize` for `(..., D)`; what was clipped stays clipped."""
        if self.mode == "identity":
            return values
        offset, scale = self._on(values)
        return values * scale + offset

    def _on(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Offset and scale on the device of the values, after checking that they fit."""
        if self.offset is None or self.scale is None:
            raise ValueError(
                f"{self.mode!r} normalisation of the {self.name} needs statistics, and this "
                f"processor has none. Call `processor.set_statistics(...)` with those of the "
                "training data, or load the processor of the finetuned checkpoint."
            )
        if values.shape[-1] != len(self.offset):
            raise ValueError(
                f"The {self.name} must have the {len(self.offset)} dimensions of its statistics, "
                f"got {values.shape[-1]}. Use the statistics of this dataset."
            )
        return self.offset.to(values.device), self.scale.to(values.device)


def as_lists(statistics: Statistics | None, name: str) -> dict[str, list[float]] | None:
    """Plain lists, which JSON can hold, of the statistics this package knows."""
    if statistics is None:
        return None
    if not isinstance(statistics, Mapping):
        raise ValueError(
            f'`{name}` must be a mapping, {{"min": [...], "max": [...], ...}}, got '
            f"{statistics!r:.100}."
        )
    known = ("min", "max", "mean", "std", "q01", "q99")
    return {
        key: np.asarray(values, dtype=np.float64).tolist()
        for key, values in statistics.items()
        if key in known
    }
