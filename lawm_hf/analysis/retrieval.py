# SPDX-License-Identifier: Apache-2.0
"""Do similar latents mean similar behaviour? Nearest neighbours across episodes, as in Fig. 7."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .latents import Array


@dataclass
class Retrieval:
    """How often the nearest clip of another episode does the same, next to chance.

    Attributes:
        same_instruction: Share of clips whose neighbour has the same instruction.
        same_instruction_chance: The same of a random clip of another episode.
        motion_correlation: Mean cosine of the true action chunks of neighbours, each number of the
            chunk standardised over the clips; None without actions.
        motion_correlation_chance: The same of random pairs.
    """

    same_instruction: float
    same_instruction_chance: float
    motion_correlation: float | None = None
    motion_correlation_chance: float | None = None


def neighbours(latents: Array, episodes: np.ndarray, count: int = 3) -> tuple[np.ndarray, Array]:
    """The nearest clips of other episodes.

    Args:
        latents: Chunks `(M, N, A)`; each number is standardised over the clips.
        episodes: Episode of each clip, `(M,)`.
        count: How many.

    Returns:
        Clip numbers `(M, count)`, the nearest first, and cosines `(M, count)`.
    """
    cosines = _cosines(latents.reshape(len(latents), -1))
    cosines[episodes[:, None] == episodes] = -np.inf
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return nearest, np.take_along_axis(cosines, nearest, axis=1)


def retrieval(
    latents: Array, episodes: np.ndarray, tasks: Sequence[str], actions: Array | None = None
) -> Retrieval:
    """Judge the nearest neighbour of each clip.

    Args:
        latents: Chunks `(M, N, A)`.
        episodes: Episode of each clip, `(M,)`.
        tasks: The `M` instructions.
        actions: True actions `(M, N, D)`, if they are known.
    """
    nearest = neighbours(latents, episodes, count=1)[0][:, 0]
    others = episodes[:, None] != episodes  # (M, M)
    names = np.unique(tasks, return_inverse=True)[1]
    same = names[:, None] == names
    rows = np.arange(len(latents))
    found = Retrieval(float(same[rows, nearest].mean()), float(same[others].mean()))
    if actions is not None:
        motion = _cosines(actions.reshape(len(rows), -1))
        found.motion_correlation = float(motion[rows, nearest].mean())
        found.motion_correlation_chance = float(motion[others].mean())
    return found


def _cosines(rows: Array) -> Array:
    """Cosines `(M, M)` of `(M, D)` rows, each column standardised."""
    centred = rows - rows.mean(0)
    spread = centred.std(0)
    scaled = centred / np.where(spread > 1e-9, spread, np.inf)
    scaled /= np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-12)
    return scaled @ scaled.T
