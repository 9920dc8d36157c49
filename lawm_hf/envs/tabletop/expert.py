# SPDX-License-Identifier: Apache-2.0
"""The scripted expert: proportional control towards the way points of the task."""

from collections.abc import Sequence

import numpy as np

from .simulation import HOVER_HEIGHT, STEP_SIZE, YAW_STEP, Tabletop

_OPEN, _CLOSE = -1.0, 1.0
_CARRY_HEIGHT = 0.13
_GAIN = 0.8  # Share of the remaining way that one action covers, where its limits allow.


class ScriptedExpert:
    """Solves the current episode of a tabletop, looking at the true positions of everything.

    Make a new one after each reset. It follows the world, not a time table, so it copes with noise
    on the executed actions, and grasps again when the cube was lost.

    Args:
        world: The tabletop, just reset.
    """

    def __init__(self, world: Tabletop):
        self.world = world
        self.phase = "hover"
        self.steps = 0

    def action(self) -> np.ndarray:
        """The action for the present moment, float64 `(7,)` in [-1, 1]."""
        if self.world.goal is None:
            cube = self.world.target_cube
            return self._towards([cube[0], cube[1], HOVER_HEIGHT], _OPEN)
        phase = self.phase
        action, self.phase = getattr(self, f"_{phase}")()
        while self.phase != phase:  # A phase that is over at its start takes no step.
            phase, self.steps = self.phase, 0
            action, self.phase = getattr(self, f"_{phase}")()
        self.steps += 1
        return action

    def _hover(self) -> tuple[np.ndarray, str]:
        cube, hand = self.world.target_cube, self.world.hand
        is_over = np.abs((cube - hand)[:2]).max() < 0.012 and abs(self._turn()) < 0.15
        action = self._towards([cube[0], cube[1], HOVER_HEIGHT], _OPEN, self._turn())
        return action, "descend" if is_over else "hover"

    def _descend(self) -> tuple[np.ndarray, str]:
        cube, hand = self.world.target_cube, self.world.hand
        is_down = hand[2] < cube[2] + 0.012 and np.abs((cube - hand)[:2]).max() < 0.014
        action = self._towards(cube, _OPEN, self._turn())
        return action, "grasp" if is_down else "descend"

    def _grasp(self) -> tuple[np.ndarray, str]:
        cube = self.world.target_cube
        action = self._towards(cube, _CLOSE, self._turn())
        return action, "carry" if self.steps >= 2 else "grasp"

    def _carry(self) -> tuple[np.ndarray, str]:
        offset = self.world.hand - self.world.target_cube
        if np.abs(offset).max() > 0.04:
            return np.zeros(7), "hover"  # Lost it.
        hand, goal = self.world.hand, self.world.goal_xy + offset[:2]
        is_up = hand[2] > _CARRY_HEIGHT - 0.04
        is_over = is_up and np.abs(goal - hand[:2]).max() < 0.02
        xy = goal if is_up else hand[:2]
        action = self._towards([*xy, _CARRY_HEIGHT], _CLOSE, -self.world.hand_yaw)
        return action, "lower" if is_over else "carry"

    def _lower(self) -> tuple[np.ndarray, str]:
        goal = self.world.goal_xy + (self.world.hand - self.world.target_cube)[:2]
        is_low = self.world.hand[2] < 0.055 or self.steps >= 6
        action = self._towards([*goal, 0.045], _CLOSE, -self.world.hand_yaw)
        return action, "release" if is_low else "lower"

    def _release(self) -> tuple[np.ndarray, str]:
        cube, hand = self.world.target_cube, self.world.hand
        action = self._towards([*cube[:2], hand[2]], _OPEN, self._turn())
        return action, "retreat" if self.steps >= 1 else "release"

    def _retreat(self) -> tuple[np.ndarray, str]:
        cube = self.world.target_cube
        action = self._towards([*cube[:2], _CARRY_HEIGHT], _OPEN, self._turn())
        return action, "hover" if self.steps >= 6 else "retreat"  # Missed: once more.

    def _turn(self) -> float:
        """Rotation that aligns the fingers with the nearest faces of the cube."""
        angle = self.world.target_cube_yaw - self.world.hand_yaw
        return (angle + np.pi / 4) % (np.pi / 2) - np.pi / 4

    def _towards(
        self, goal: Sequence[float] | np.ndarray, gripper: float, turn: float = 0.0
    ) -> np.ndarray:
        action = np.zeros(7)
        action[:3] = _GAIN * (np.asarray(goal) - self.world.hand) / STEP_SIZE
        action[5] = _GAIN * turn / YAW_STEP
        action[6] = gripper
        return action.clip(-1, 1)
