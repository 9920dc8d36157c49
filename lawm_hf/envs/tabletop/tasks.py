# SPDX-License-Identifier: Apache-2.0
"""Suites of instructions, and where everything stands when an episode begins.

In every suite the picture alone does not tell what to do: the same layout goes with each of the
suite's instructions, and the sides of bin and plate are drawn at random. A policy that ignores the
words reaches 25 % (reach, place2) or 12.5 % (place4).
"""

import difflib
from dataclasses import dataclass

import numpy as np

from .scene import CUBE_COLORS, GOALS


@dataclass(frozen=True)
class Suite:
    """A family of tasks that share a scene.

    Args:
        name: `"reach"`, `"place2"` or `"place4"`.
        num_cubes: Cubes on the table.
        targets: For each task, the colour it names and the goal (None when only reaching).
        max_steps: Steps after which an episode is given up.
        min_steps: Shortest recorded demonstration; the hand rests at its end. Windows of 11 frames
            (10 latent actions) then fit without padding.
    """

    name: str
    num_cubes: int
    targets: tuple[tuple[str, str | None], ...]
    max_steps: int
    min_steps: int

    @property
    def tasks(self) -> tuple[str, ...]:
        """The instructions."""
        return tuple(_instruction(color, goal) for color, goal in self.targets)

    @property
    def has_goals(self) -> bool:
        """Whether there are bin and plate, and cubes that can be moved."""
        return self.targets[0][1] is not None


def _instruction(color: str, goal: str | None) -> str:
    if goal is None:
        return f"go to the {color} cube"
    return f"put the {color} cube {'in the bin' if goal == 'bin' else 'on the plate'}"


_REACH = tuple((color, None) for color in CUBE_COLORS)
_PLACE = tuple((color, goal) for color in CUBE_COLORS for goal in GOALS)
SUITES = {
    "reach": Suite("reach", 4, _REACH, max_steps=20, min_steps=12),
    "place2": Suite("place2", 2, _PLACE, max_steps=60, min_steps=12),
    "place4": Suite("place4", 4, _PLACE, max_steps=60, min_steps=12),
}


def get_suite(name: str) -> Suite:
    """The suite called `name`."""
    if name not in SUITES:
        close = difflib.get_close_matches(str(name), SUITES, n=1)
        hint = f"Did you mean `{close[0]}`?" if close else f"Known suites: {', '.join(SUITES)}."
        raise ValueError(f"There is no tabletop suite `{name}`. {hint}")
    return SUITES[name]


@dataclass(frozen=True)
class Layout:
    """Where everything stands at the start.

    Args:
        task: Index into the suite's tasks.
        colors: Colour of each cube.
        target: Index of the cube that the instruction names.
        cube_xy: Centres of the cubes, `(num_cubes, 2)`.
        cube_yaw: Their rotations about the vertical, `(num_cubes,)`.
        goal_xy: Centres of bin and plate, `(2, 2)`; empty `(0, 2)` when there are none.
        hand: Position of the point between the finger tips, `(3,)`.
    """

    task: int
    colors: tuple[str, ...]
    target: int
    cube_xy: np.ndarray
    cube_yaw: np.ndarray
    goal_xy: np.ndarray
    hand: np.ndarray


def sample_layout(suite: Suite, seed: int, task: int | None = None) -> Layout:
    """Draw a layout: a pure function of its arguments.

    Positions depend on the seed alone, so the same seed with another task is the same table with
    another instruction (in `place2` also with other colours, since the named one must be there).
    `RandomState` is used because numpy guarantees its streams for ever.

    Args:
        suite: The suite.
        seed: In [0, 2**32).
        task: Index into `suite.tasks`; None takes `seed % len(suite.tasks)`.
    """
    if not 0 <= int(seed) < 2**32:
        raise ValueError(f"`seed` must lie in [0, 2**32), got {seed}.")
    if task is None:
        task = int(seed) % len(suite.targets)
    if not 0 <= task < len(suite.targets):
        raise ValueError(
            f"`task` must be one of the {len(suite.targets)} tasks of suite `{suite.name}`, "
            f"0 to {len(suite.targets) - 1}, got {task}."
        )
    rng = np.random.RandomState(int(seed))
    if suite.has_goals:
        cube_xy = _scatter(rng, suite.num_cubes, (0.15, 0.072), apart=(0.085, 0.125))
        side = rng.choice([-1, 1])
        goal_xy = np.array([[0.0, side * 0.176], [0.0, -side * 0.176]])
        goal_xy += rng.uniform(-1, 1, (2, 2)) * (0.08, 0.008)
        hand = rng.uniform((-0.14, -0.10, 0.15), (0.04, 0.10, 0.19))
    else:
        cube_xy = _scatter(rng, suite.num_cubes, (0.15, 0.18), apart=(0.10, 0.10))
        goal_xy = np.zeros((0, 2))
        hand = rng.uniform((-0.15, -0.17, 0.12), (0.13, 0.17, 0.18))
        while (np.abs(hand[:2] - cube_xy).max(1) < 0.05).any():
            hand = rng.uniform((-0.15, -0.17, 0.12), (0.13, 0.17, 0.18))
    cube_yaw = rng.uniform(-0.35, 0.35, suite.num_cubes)
    color = suite.targets[task][0]
    if suite.num_cubes == len(CUBE_COLORS):
        colors = tuple(CUBE_COLORS)
    else:
        others = [c for c in CUBE_COLORS if c != color]
        chosen = [color, others[rng.randint(len(others))]]
        colors = tuple(chosen if rng.randint(2) else reversed(chosen))
    return Layout(task, colors, colors.index(color), cube_xy, cube_yaw, goal_xy, hand)


def _scatter(
    rng: np.random.RandomState, count: int, half: tuple[float, float], apart: tuple[float, float]
) -> np.ndarray:
    """Points in a rectangle, each pair `apart` in x or in y (fingers need room along y)."""
    points: list[np.ndarray] = []
    tries = 0
    while len(points) < count:
        tries += 1
        if tries % 30 == 0:
            points = []  # Painted into a corner: begin again.
        point = rng.uniform(-1, 1, 2) * half
        if all((np.abs(point - other) >= apart).any() for other in points):
            points.append(point)
    return np.array(points)
