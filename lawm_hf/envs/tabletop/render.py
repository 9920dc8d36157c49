# SPDX-License-Identifier: Apache-2.0
# mujoco's compiled classes carry no types:
# pyright: reportAttributeAccessIssue=false
"""Pictures of the tabletop by MuJoCo's ray caster: no OpenGL, no driver, no system library.

Fast because little is cast: the table is a plane and needs no ray, rays go only into the image
rectangles of what stands on it, and what does not move in the picture is cast once (for the front
camera everything but the hand and the free cubes, for the wrist camera the palm it is bolted to).
Reproducible because what decides a pixel is elementwise arithmetic: no driver takes part, nor a
BLAS kernel chosen by the processor.
"""

import mujoco
import numpy as np

from .scene import (
    ATTACHED_GROUP,
    LOOKS,
    MOVING_GROUP,
    STATIC_GROUP,
    TABLE_HALF_SIZE,
    Domain,
)

_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
_FLOOR_COLOR = (0.20, 0.20, 0.23)
_NEAR = 0.01
_FAR = 10.0


class RayRenderer:
    """One camera's view of one model.

    Args:
        model: The compiled scene.
        camera: Name of the camera.
        size: Side of the square picture, in pixels.
        domain: Whose table colours and light.
    """

    def __init__(self, model: mujoco.MjModel, camera: str, size: int, domain: Domain):
        self.model, self.size, self.look = model, size, LOOKS[domain]
        self.camera = model.camera(camera).id
        self.is_static = bool(model.cam_bodyid[self.camera] == 0)
        light = np.array(self.look.light)
        self._light = light / np.sqrt((light * light).sum())
        self._half_width = float(np.tan(np.deg2rad(model.cam_fovy[self.camera]) / 2))
        self._axis = (2 * (np.arange(size) + 0.5) / size - 1) * self._half_width
        self._length = np.sqrt(self._axis**2 + self._axis[:, None] ** 2 + 1)  # Of a pixel's ray.
        self._geom = np.zeros(size * size, np.int32)
        self._distance = np.zeros(size * size)
        self._normal = np.zeros(3 * size * size)
        moving = (MOVING_GROUP, ATTACHED_GROUP) if self.is_static else (MOVING_GROUP, STATIC_GROUP)
        self._moving = np.flatnonzero(np.isin(model.geom_group, moving))
        box = model.geom_aabb[self._moving]  # (G, 6): centre and half sizes in the geom's frame
        self._corners = box[:, None, :3] + _CORNERS * box[:, None, 3:]  # (G, 8, 3)
        self._background: tuple[np.ndarray, np.ndarray] | None = None
        self._palm: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def start_episode(self) -> None:
        """Forget where things stood in the last episode."""
        self._background = None

    def render(self, data: mujoco.MjData) -> np.ndarray:
        """The picture now, uint8 `(H, W, 3)`; the kinematics in `data` must be up to date."""
        draw = self._from_standing_camera if self.is_static else self._from_wrist
        return draw(data).reshape(self.size, self.size, 3)

    def _from_standing_camera(self, data: mujoco.MjData) -> np.ndarray:
        everywhere = np.ones(self.size**2, bool)
        if self._background is None:
            rays = self._rays(data)
            picture = self._table(data, rays)
            where, normal, color = self._cast(data, rays, everywhere, (STATIC_GROUP,))
            picture[where] = self._shade(normal, color, self._light)
            self._background = rays, picture
        rays, background = self._background
        picture = background.copy()
        groups = (STATIC_GROUP, MOVING_GROUP, ATTACHED_GROUP)
        where, normal, color = self._cast(data, rays, self._near_moving(data), groups)
        picture[where] = self._shade(normal, color, self._light)
        return picture

    def _from_wrist(self, data: mujoco.MjData) -> np.ndarray:
        rays = self._rays(data)
        picture = self._table(data, rays)
        rotation = data.cam_xmat[self.camera].reshape(3, 3)
        if self._palm is None:
            everywhere = np.ones(self.size**2, bool)
            where, normal, color = self._cast(data, rays, everywhere, (ATTACHED_GROUP,))
            self._palm = where, _dot3(normal, rotation.T), color  # Normals in the camera's frame.
        palm, normal, color = self._palm
        picture[palm] = self._shade(normal, color, _dot3(self._light, rotation.T))
        mask = self._near_moving(data)
        mask[palm] = False  # Nothing fits between the camera and the palm.
        where, normal, color = self._cast(data, rays, mask, (STATIC_GROUP, MOVING_GROUP))
        picture[where] = self._shade(normal, color, self._light)
        return picture

    def _rays(self, data: mujoco.MjData) -> np.ndarray:
        """Directions of the pixels' rays in the world, of unit length, `(H*W, 3)`."""
        right, up, backward = data.cam_xmat[self.camera].reshape(3, 3).T
        x, y = self._axis, -self._axis[:, None]
        rays = np.empty((self.size, self.size, 3))
        for i in range(3):
            rays[..., i] = (x * right[i] + (y * up[i] - backward[i])) / self._length
        return rays.reshape(-1, 3)

    def _table(self, data: mujoco.MjData, rays: np.ndarray) -> np.ndarray:
        """The empty table and the floor beyond it, uint8 `(H*W, 3)`."""
        ambient = self.look.ambient
        shade = ambient + (1 - ambient) * self._light[2]
        palette = _to_bytes(np.array([*self.look.table_colors, _FLOOR_COLOR]) * shade)
        origin = data.cam_xpos[self.camera]
        scale = -origin[2] / np.minimum(rays[:, 2], -1e-6)
        x, y = origin[0] + scale * rays[:, 0], origin[1] + scale * rays[:, 1]
        tile_x, tile_y = self.look.table_tile
        index = (np.floor(x / tile_x) + np.floor(y / tile_y)).astype(np.int64) & 1
        index[np.maximum(np.abs(x), np.abs(y)) > TABLE_HALF_SIZE] = 2
        return palette[index]

    def _cast(
        self, data: mujoco.MjData, rays: np.ndarray, mask: np.ndarray, groups: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cast the rays of the pixels in `mask` `(H*W,)` against the geoms of `groups`.

        Returns:
            Indices of the pixels that hit something, `(M,)`; normals there, `(M, 3)`; colours of
            what was hit, RGB in [0, 1], `(M, 3)`.
        """
        where = np.flatnonzero(mask)
        count = len(where)
        if count == 0:
            return where, np.zeros((0, 3)), np.zeros((0, 3))
        is_cast = np.zeros(6, np.uint8)
        is_cast[list(groups)] = 1
        mujoco.mj_multiRay(
            *(
                self.model,
                data,
                data.cam_xpos[self.camera],
                rays[where].reshape(-1),
                is_cast,
                1,
                -1,
            ),
            *(self._geom[:count], self._distance[:count], self._normal[: 3 * count], count, _FAR),
        )
        hit = np.flatnonzero(self._geom[:count] >= 0)
        color = self.model.geom_rgba[self._geom[hit], :3]
        return where[hit], self._normal[: 3 * count].reshape(-1, 3)[hit], color

    def _shade(self, normal: np.ndarray, color: np.ndarray, light: np.ndarray) -> np.ndarray:
        cosine = normal[:, 0] * light[0] + normal[:, 1] * light[1] + normal[:, 2] * light[2]
        brightness = self.look.ambient + (1 - self.look.ambient) * np.maximum(cosine, 0)
        return _to_bytes(color * brightness[:, None])

    def _near_moving(self, data: mujoco.MjData) -> np.ndarray:
        """Pixels inside the image rectangle of anything that moves in the picture, `(H*W,)`.

        Rounding may differ between processors here (BLAS), so the rectangles get a margin: which
        rays are cast beyond an object's outline changes no pixel.
        """
        rotation = data.geom_xmat[self._moving].reshape(-1, 3, 3)
        offset = data.geom_xpos[self._moving] - data.cam_xpos[self.camera]
        world = self._corners @ rotation.transpose(0, 2, 1) + offset[:, None]
        local = world @ data.cam_xmat[self.camera].reshape(3, 3)  # (G, 8, 3), camera frame
        depth = -local[..., 2]
        plane = local[..., :2] / (np.maximum(depth, _NEAR)[..., None] * self._half_width)
        pixel = (plane * (1, -1) + 1) * (self.size / 2)
        low = np.clip(pixel.min(1) - 0.01, 0, self.size).astype(int)
        high = np.clip(pixel.max(1) + 1.01, 0, self.size).astype(int)
        nearest, farthest = depth.min(1), depth.max(1)
        mask = np.zeros((self.size, self.size), bool)
        for i in np.flatnonzero(farthest > _NEAR):  # The others are behind the camera.
            if nearest[i] < _NEAR:
                mask[:] = True  # Reaches behind the camera: no rectangle bounds it.
            mask[low[i, 1] : high[i, 1], low[i, 0] : high[i, 0]] = True
        return mask.reshape(-1)


def _dot3(vectors: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Each of `vectors` `(..., 3)` times the rows of `matrix`, without BLAS."""
    x, y, z = vectors[..., :1], vectors[..., 1:2], vectors[..., 2:]
    return x * matrix[:, 0] + y * matrix[:, 1] + z * matrix[:, 2]


def _to_bytes(color: np.ndarray) -> np.ndarray:
    return (np.clip(color, 0, 1) * 255 + 0.5).astype(np.uint8)
