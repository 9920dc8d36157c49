# SPDX-License-Identifier: Apache-2.0
"""What a simulator is told to do: numbers, or nothing at all."""

from typing import Any

import numpy as np


def checked_action(action: Any, size: int = 7) -> np.ndarray:
    """An action `(size,)`, clipped to [-1, 1], float64.

    Raises:
        ValueError: If it is of another shape, or not finite: `clip` would pass NaN on.
    """
    try:
        found = np.asarray(action, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`action` must be {size} numbers, got {action!r}.") from error
    if found.shape != (size,):
        raise ValueError(
            f"`action` must have shape ({size},) (translation, rotation, gripper), got "
            f"{found.shape}. Step with one action of a chunk at a time."
        )
    if not np.isfinite(found).all():
        raise ValueError(
            f"`action` must be finite, got {found.tolist()}. Check the policy's weights, and the "
            "state that it is given."
        )
    return found.clip(-1, 1)
