# SPDX-License-Identifier: Apache-2.0
"""A scripted expert for libero_object: grasp the named thing from above, drop it in the basket."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .env import LiberoEnv

_OPEN, _CLOSE = -1.0, 1.0
_METRES, _RADIANS = 0.05, 0.5  # What an action of 1 commands.
_FINGER_REACH = 0.05  # Of an open finger from the middle of the hand.
_WIDEST = 0.078  # That fits between the fingers.
_HOVER = 0.09  # Above the top of the thing.
_CLEARANCE = 0.05  # Above the basket's rim when carrying.
_UP = np.array([0.0, 0, 1])
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)


@dataclass
class _Grasp:
    """Where to close the fingers: horizontal `point`, height, horizontal `axis` of closing, top."""

    point: np.ndarray
    height: float
    axis: np.ndarray
    top: float


class LiberoExpert:
    """Solves the current episode, looking at the true positions of everything.

    Make a new one after each reset. It follows the world, not a time table, so it copes with noise
    on the executed actions, and grasps again when the thing was lost.

    Args:
        env: A LIBERO environment, just reset, whose goal is `in` or `on` of one thing.
        gain: Share of the remaining way that one action commands; the arm lags behind, so above 1.
        offset: Where above the thing it stops first, `(2,)` in metres, for diversity.

    Raises:
        ValueError: If the task is of another kind.
    """

    def __init__(self, env: LiberoEnv, gain: float = 2.5, offset: np.ndarray | None = None):
        self.world: Any = env.simulator.env
        goals = [g for g in self.world.parsed_problem["goal_state"] if g[0] in ("in", "on")]
        if len(goals) != 1 or not goals[0][2].startswith("basket"):
            raise ValueError(
                "The expert puts one thing into the basket (suite libero_object), got "
                f"{env.task_description!r} of {env.suite}."
            )
        self.thing, self.region = goals[0][1:]
        self.gain, self.offset = gain, np.zeros(2) if offset is None else offset
        self.phase, self.steps, self.attempts = "hover", 0, 0
        self.grasp = self._plan_grasp()
        self.anchor = self.hand

    def action(self) -> np.ndarray:
        """The action for the present moment, float64 `(7,)` in [-1, 1]."""
        action, phase = getattr(self, f"_{self.phase}")()
        self.steps += 1
        if phase != self.phase:
            self.phase, self.steps, self.anchor = phase, 0, self.hand
        return action

    @property
    def hand(self) -> np.ndarray:
        """Position of the point between the finger tips, `(3,)`."""
        return self._data.site("gripper0_grip_site").xpos.copy()

    @property
    def _data(self) -> Any:
        return self.world.sim.data._data

    def _hover(self) -> tuple[np.ndarray, str]:
        point = self.grasp.point + self.offset
        goal = np.array([*point, self.grasp.top + _HOVER])
        gap = np.abs(goal - self.hand)
        is_over = gap[:2].max() < 0.015 and gap[2] < 0.03 and abs(self._turn()[2]) < 0.06
        return self._towards(goal, _OPEN), "descend" if is_over or self.steps >= 90 else "hover"

    def _descend(self) -> tuple[np.ndarray, str]:
        goal, hand = np.array([*self.grasp.point, self.grasp.height]), self.hand
        distance = np.linalg.norm((goal - hand)[:2])
        if distance > 0.012 and hand[2] > goal[2] + 0.05:
            goal[2] = hand[2]  # First over the thing, then down.
        is_down = abs(hand[2] - self.grasp.height) < 0.006 and distance < 0.008
        action = self._towards(goal, _OPEN, limit=0.8)
        return action, "close" if is_down or self.steps >= 50 else "descend"

    def _close(self) -> tuple[np.ndarray, str]:
        goal = np.array([*self.grasp.point, self.grasp.height])
        return self._towards(goal, _CLOSE), "lift" if self.steps >= 9 else "close"

    def _lift(self) -> tuple[np.ndarray, str]:
        height = max(self._carry_goal()[2] + 0.01, self.grasp.height + 0.12)
        if self.steps >= 14 and self._is_lost():
            return self._again()
        is_up = self.hand[2] > height - 0.04 or self.steps >= 50
        goal = np.array([*self.anchor[:2], height])
        return self._towards(goal, _CLOSE, limit=0.9), "carry" if is_up else "lift"

    def _carry(self) -> tuple[np.ndarray, str]:
        goal = self._carry_goal()
        distance = np.linalg.norm((goal - self.hand)[:2])
        if distance > 0.08 and self._is_lost():
            return self._again()
        is_over = distance < 0.014 or self.steps >= 80
        return self._towards(goal, _CLOSE, limit=0.9), "lower" if is_over else "carry"

    def _lower(self) -> tuple[np.ndarray, str]:
        goal = self._carry_goal() - (_CLEARANCE + 0.02) * _UP
        is_low = self.hand[2] < goal[2] + 0.012 or self.steps >= 30
        return self._towards(goal, _CLOSE, limit=0.6), "release" if is_low else "lower"

    def _release(self) -> tuple[np.ndarray, str]:
        return self._towards(self.anchor, _OPEN), "retreat" if self.steps >= 7 else "release"

    def _retreat(self) -> tuple[np.ndarray, str]:
        if self.steps >= 30:  # Still no success: the thing lies elsewhere.
            return self._again()
        return self._towards(self.anchor + 0.12 * _UP, _OPEN), "retreat"

    def _again(self) -> tuple[np.ndarray, str]:
        self.attempts += 1
        self.grasp = self._plan_grasp()
        return self._towards(self.hand + 0.05 * _UP, _OPEN), "hover"

    def _carry_goal(self) -> np.ndarray:
        """Hand position that holds the thing over the basket, clear of its rim."""
        points = self._boxes(self.thing).reshape(-1, 3)
        middle = (points[:, :2].min(0) + points[:, :2].max(0)) / 2
        rim = self._boxes(self.region.removesuffix("_contain_region"))[..., 2].max()
        xy = self._data.site(self.region).xpos[:2] + self.hand[:2] - middle
        return np.array([*xy, rim + _CLEARANCE + self.hand[2] - points[:, 2].min()])

    def _is_lost(self) -> bool:
        points = self._boxes(self.thing).reshape(-1, 3)
        return bool(np.linalg.norm((points.min(0) + points.max(0)) / 2 - self.hand) > 0.12)

    def _plan_grasp(self) -> _Grasp:
        """Across the narrow side, turning little, with room for the fingers."""
        points = self._boxes(self.thing).reshape(-1, 3)
        bottom, top = points[:, 2].min(), points[:, 2].max()
        middle = (points[:, :2].min(0) + points[:, :2].max(0)) / 2
        boxes = [self._boxes(name) for name in self.world.obj_body_id if name != self.thing]
        boxes = [box for body in boxes for box in body if box[:, 2].max() > bottom + 0.01]

        def cost(axis: np.ndarray) -> float:
            width = np.ptp(points[:, :2] @ axis)
            turn = np.arccos(np.clip(abs(axis @ self._finger_axis()), 0, 1))
            room = min(_distance(middle + s * _FINGER_REACH * axis, boxes) for s in (-1, 1))
            return max(width, 0.03) + 0.012 * turn + 10 * (width > _WIDEST) - 0.25 * min(room, 0.02)

        angles = np.linspace(0, np.pi, 36, endpoint=False)
        axis = min(np.stack([np.cos(angles), np.sin(angles)], axis=1), key=cost)
        size = top - bottom
        if size < 0.05:  # Low things near the floor, tall ones no deeper than the fingers reach.
            height = bottom + max(0.010, min(0.55 * size, size - 0.02))
        else:
            height = top - min(0.035, 0.45 * size)
        return _Grasp(middle, height - 0.008 * self.attempts, axis, top)

    def _boxes(self, name: str) -> np.ndarray:
        """Corners of the boxes around one thing's colliding geoms, `(num_geoms, 8, 3)`."""
        model, data = self.world.sim.model._model, self._data
        root = model.body_rootid[self.world.obj_body_id[name]]
        is_own = model.body_rootid[model.geom_bodyid] == root
        geoms = np.flatnonzero(is_own & (model.geom_contype > 0))
        boxes = model.geom_aabb[geoms]  # Centre and half sizes, in the geom's frame.
        local = boxes[:, None, :3] + _CORNERS * boxes[:, None, 3:]
        rotation = data.geom_xmat[geoms].reshape(-1, 3, 3)
        return data.geom_xpos[geoms][:, None] + local @ rotation.transpose(0, 2, 1)

    def _finger_axis(self) -> np.ndarray:
        """Horizontal direction in which the fingers close, `(2,)`, of length 1."""
        left, right = (self._data.body(f"gripper0_{side}finger").xpos for side in ("left", "right"))
        axis = (right - left)[:2]
        return axis / (np.linalg.norm(axis) + 1e-9)

    def _turn(self) -> np.ndarray:
        """Rotation vector to a hand that points straight down, fingers along the grasp's axis."""
        down = self._data.site("gripper0_grip_site").xmat.reshape(3, 3)[:, 2]
        tilt = np.cross(down, [0, 0, -1])
        fingers, axis = self._finger_axis(), self.grasp.axis
        axis = axis if fingers @ axis >= 0 else -axis
        yaw = np.arctan2(fingers[0] * axis[1] - fingers[1] * axis[0], fingers @ axis)
        return np.array([tilt[0], tilt[1], yaw])

    def _towards(self, goal: np.ndarray, gripper: float, limit: float = 1.0) -> np.ndarray:
        move = np.clip(self.gain * (goal - self.hand) / _METRES, -limit, limit)
        turn = np.clip(1.5 * self._turn() / _RADIANS, -0.5, 0.5)
        return np.array([*move, *turn, gripper])


def _distance(point: np.ndarray, boxes: list[np.ndarray]) -> float:
    """Least horizontal distance from a point to boxes around the corners, at most 0.2."""
    gaps = [np.maximum(b[:, :2].min(0) - point, point - b[:, :2].max(0)) for b in boxes]
    return min([0.2, *(float(np.linalg.norm(np.maximum(gap, 0))) for gap in gaps)])
