# SPDX-License-Identifier: Apache-2.0
"""Between the tabletop and a picture of it: where a click lies on the table, and the way back."""

from typing import Any

import numpy as np

from ..envs.tabletop import Tabletop


def on_table(world: Tabletop, x: float, y: float, height: float = 0.0) -> np.ndarray | None:
    """The place `(2,)` in metres that the front picture shows at a point.

    Args:
        world: The tabletop.
        x: From the left edge of the picture, in [0, 1].
        y: From its upper edge.
        height: Of the plane that is looked at, above the table.

    Returns:
        None above the horizon.
    """
    centre, rotation, half = _pose(world)
    ray = rotation @ np.array([(2 * x - 1) * half, (1 - 2 * y) * half, -1])
    if ray[2] > -1e-6:
        return None
    return (centre + ray * (height - centre[2]) / ray[2])[:2]


def in_picture(world: Tabletop, points: np.ndarray) -> np.ndarray:
    """Where the front picture shows points `(K, 3)`: from the left and the upper edge, `(K, 2)`."""
    centre, rotation, half = _pose(world)
    local = (points - centre) @ rotation
    plane = local[:, :2] / (-local[:, 2:] * half)
    return (plane * (1, -1) + 1) / 2


def _pose(world: Tabletop) -> tuple[np.ndarray, np.ndarray, float]:
    """Centre, rotation (its columns: right, up, backward) and half width of the front camera."""
    model: Any = world.model
    data: Any = world.data
    camera = model.camera("front").id
    half = float(np.tan(np.deg2rad(model.cam_fovy[camera]) / 2))
    return data.cam_xpos[camera].copy(), data.cam_xmat[camera].reshape(3, 3).copy(), half
