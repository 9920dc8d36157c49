# SPDX-License-Identifier: Apache-2.0
# mujoco's compiled classes carry no types:
# pyright: reportAttributeAccessIssue=false
"""The tabletop's physics: reset, step, observe, judge.

Conventions are LIBERO's. Action (7): dx, dy, dz, rotation x, y, z, gripper, each in [-1, 1]; one
unit is 3 cm, or 0.3 rad about the vertical (the other rotations do nothing); gripper -1 opens, +1
closes. State (8): position, axis-angle, two finger positions of opposite sign.

Control runs at 10 Hz, not LIBERO's 20: consecutive frames then differ by several pixels, and a
whole reach fits into one window of the world model (12 frames instead of 24 for the same motion).
"""

import mujoco
import numpy as np

from ..actions import checked_action
from .render import RayRenderer
from .scene import (
    CUBE_COLORS,
    CUBE_HALF_SIZE,
    FINGER_OPENING,
    GOALS,
    LOOKS,
    Domain,
    build_model,
)
from .tasks import Layout, get_suite, sample_layout

CONTROL_HZ = 10
STEP_SIZE = 0.03  # metres per unit of action
YAW_STEP = 0.3  # radians per unit of action
VIEWS = ("front", "wrist")

HOVER_HEIGHT = 0.105  # of the finger tips when pointing at a cube
_LOWEST, _HIGHEST = np.array([-0.22, -0.24, 0.022]), np.array([0.20, 0.24, 0.26])
_HELD_STEPS = 3
_REACH_TOLERANCE = 0.03
_SMOOTHING = 5  # The weld's target moves in this many pieces per action.


class Tabletop:
    """A tabletop world with one suite's scene.

    Args:
        suite: `"reach"`, `"place2"` or `"place4"`.
        image_size: Side of the square views, in pixels.
        domain: `"robot"`, or `"hand"` for the second video domain (other hand, table, light and
            camera; same dynamics).
    """

    def __init__(self, suite: str = "reach", image_size: int = 64, domain: Domain = "robot"):
        self.suite = get_suite(suite)
        if not isinstance(image_size, int) or image_size < 1:
            raise ValueError(f"`image_size` must be a positive integer, got {image_size!r}.")
        if domain not in LOOKS:
            raise ValueError(f"`domain` must be one of {', '.join(LOOKS)}, got {domain!r}.")
        self.domain: Domain = domain
        self.model = build_model(self.suite.num_cubes, not self.suite.has_goals, domain)
        self.data = mujoco.MjData(self.model)
        self.renderers = {v: RayRenderer(self.model, v, image_size, domain) for v in VIEWS}
        self._cubes = [self.model.body(f"cube{i}").id for i in range(self.suite.num_cubes)]
        self._goals = [self.model.body(g).id for g in GOALS] if self.suite.has_goals else []
        self._grip = self.model.site("grip").id
        self._hand_joint = self.model.body("hand").jntadr[0]
        self._fingers = [self.model.joint(f"{s}_finger").qposadr[0] for s in ("left", "right")]
        self._substeps = round(1 / CONTROL_HZ / self.model.opt.timestep) // _SMOOTHING
        self.reset(0)

    def reset(self, seed: int, task: int | None = None) -> None:
        """Begin the episode that `seed` stands for; see `sample_layout`."""
        self.layout: Layout = sample_layout(self.suite, seed, task)
        self.color, self.goal = self.suite.targets[self.layout.task]
        mujoco.mj_resetData(self.model, self.data)
        for i, body in enumerate(self._cubes):
            self._place_cube(body, self.layout.cube_xy[i], self.layout.cube_yaw[i])
            rgb = CUBE_COLORS[self.layout.colors[i]]
            self.model.geom_rgba[self.model.body_geomadr[body], :3] = rgb
        for body, xy in zip(self._goals, self.layout.goal_xy, strict=True):
            self.model.body_pos[body, :2] = xy
        self.target, self.yaw = self.layout.hand.copy(), 0.0
        start = self.model.jnt_qposadr[self._hand_joint]
        self.data.qpos[start : start + 3] = self.target
        self.data.qpos[self._fingers] = FINGER_OPENING
        self.data.ctrl[:] = FINGER_OPENING
        self._move_target(self.target, self.yaw)
        mujoco.mj_step(self.model, self.data, 20)  # Settle.
        mujoco.mj_forward(self.model, self.data)
        self._steps_held = 0
        for renderer in self.renderers.values():
            renderer.start_episode()

    def step(self, action: np.ndarray) -> bool:
        """Execute one action `(7,)`, clipped to [-1, 1]; returns whether the task is solved."""
        action = checked_action(action)
        start, start_yaw = self.target, self.yaw
        self.target = np.clip(start + STEP_SIZE * action[:3], _LOWEST, _HIGHEST)
        self.yaw = start_yaw + YAW_STEP * action[5]
        self.data.ctrl[:] = FINGER_OPENING if action[6] < 0 else 0.0
        for piece in range(1, _SMOOTHING + 1):
            part = piece / _SMOOTHING
            target = start + part * (self.target - start)
            self._move_target(target, start_yaw + part * (self.yaw - start_yaw))
            mujoco.mj_step(self.model, self.data, self._substeps)
        mujoco.mj_kinematics(self.model, self.data)  # `mj_step` leaves poses one substep behind.
        mujoco.mj_camlight(self.model, self.data)
        self._steps_held = self._steps_held + 1 if self._is_at_goal() else 0
        return self.is_success

    @property
    def is_success(self) -> bool:
        """Whether the instruction is fulfilled: reaching must last, placing must be let go."""
        return self._steps_held >= (1 if self.suite.has_goals else _HELD_STEPS)

    @property
    def instruction(self) -> str:
        """What the hand is told to do."""
        return self.suite.tasks[self.layout.task]

    @property
    def hand(self) -> np.ndarray:
        """Position of the point between the finger tips, `(3,)`."""
        return self.data.site_xpos[self._grip].copy()

    @property
    def hand_yaw(self) -> float:
        """Rotation of the hand about the vertical."""
        matrix = self.data.site_xmat[self._grip]
        return float(np.arctan2(matrix[3], matrix[0]))

    @property
    def cubes(self) -> np.ndarray:
        """Centres of the cubes, `(num_cubes, 3)`."""
        return self.data.xpos[self._cubes].copy()

    @property
    def target_cube(self) -> np.ndarray:
        """Centre of the cube that the instruction names, `(3,)`."""
        return self.data.xpos[self._cubes[self.layout.target]].copy()

    @property
    def target_cube_yaw(self) -> float:
        """Rotation of the named cube about the vertical."""
        matrix = self.data.xmat[self._cubes[self.layout.target]]
        return float(np.arctan2(matrix[3], matrix[0]))

    @property
    def goal_xy(self) -> np.ndarray:
        """Where the instruction is fulfilled, `(2,)`: the named goal, or the named cube."""
        if self.goal is None:
            return self.target_cube[:2]
        return self.layout.goal_xy[GOALS.index(self.goal)].copy()

    def state(self) -> np.ndarray:
        """Proprioception, float32 `(8,)`: position, axis-angle, two finger positions."""
        left, right = self.data.qpos[self._fingers]
        return np.array([*self.hand, 0, 0, self.hand_yaw, left, -right], np.float32)

    def render(self, view: str = "front") -> np.ndarray:
        """One view, uint8 `(H, W, 3)`."""
        if view not in self.renderers:
            raise ValueError(f"`view` must be one of {', '.join(VIEWS)}, got {view!r}.")
        return self.renderers[view].render(self.data)

    def _place_cube(self, body: int, xy: np.ndarray, yaw: float) -> None:
        pose = [*xy, CUBE_HALF_SIZE, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
        if self.suite.has_goals:
            start = self.model.jnt_qposadr[self.model.body_jntadr[body]]
            self.data.qpos[start : start + 7] = pose
        else:
            self.model.body_pos[body], self.model.body_quat[body] = pose[:3], pose[3:]

    def _move_target(self, position: np.ndarray, yaw: float) -> None:
        self.data.mocap_pos[0] = position
        self.data.mocap_quat[0] = np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)

    def _is_at_goal(self) -> bool:
        cube, hand = self.target_cube, self.hand
        if self.goal is None:
            distance = np.sqrt(((hand - cube)[:2] ** 2).sum())
            return bool(distance < _REACH_TOLERANCE and abs(hand[2] - HOVER_HEIGHT) < 0.03)
        inside = np.abs(cube[:2] - self.goal_xy).max() < 0.04
        is_released = self.data.qpos[self._fingers].min() > CUBE_HALF_SIZE + 0.006
        is_clear = hand[2] > cube[2] + 0.04
        return bool(inside and cube[2] < 0.05 and is_released and is_clear)
