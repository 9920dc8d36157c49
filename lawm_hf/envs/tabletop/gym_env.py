# SPDX-License-Identifier: Apache-2.0
"""The tabletop as a gymnasium environment, with the observation keys that LeRobot expects."""

from typing import Any

import gymnasium
import numpy as np

from .scene import Domain
from .simulation import CONTROL_HZ, VIEWS, Tabletop

_STATE_LIMIT = np.array([1, 1, 1, np.pi, np.pi, np.pi, 0.1, 0.1], np.float32)


class TabletopEnv(gymnasium.Env):
    """Follow an instruction: `gymnasium.make("lawm_hf/Tabletop-v0", suite="reach")`.

    Observations are `{"pixels": {"front": ..., "wrist": ...}, "agent_pos": ...}`: views uint8
    `(H, W, 3)`, proprioception float32 `(8,)`. Actions float32 `(7,)` in [-1, 1]; conventions in
    `lawm_hf.envs.tabletop.simulation`. The reward is 1 on success and 0 otherwise; an episode ends
    on success or after the suite's `max_steps`.

    Args:
        suite: `"reach"`, `"place2"` or `"place4"`.
        task: Index of the instruction; None lets `seed % len(suite.tasks)` choose.
        image_size: Side of the square views, in pixels.
        render_mode: `"rgb_array"` only; `render` returns the front view.
        domain: `"robot"`, or `"hand"` for the second video domain.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}  # noqa: RUF012
    any_image_size = True

    def __init__(
        self,
        suite: str = "reach",
        task: int | None = None,
        image_size: int = 64,
        render_mode: str | None = "rgb_array",
        domain: Domain = "robot",
    ):
        if render_mode not in (None, "rgb_array"):
            raise ValueError(
                f'`render_mode` must be "rgb_array" or None, got {render_mode!r}: the tabletop '
                "draws arrays and opens no window."
            )
        self.world = Tabletop(suite, image_size, domain)
        self.suite, self.task, self.render_mode = suite, task, render_mode
        self._max_episode_steps = self.world.suite.max_steps  # The name that LeRobot looks for.
        shape = (image_size, image_size, 3)
        view = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        self.observation_space = gymnasium.spaces.Dict(
            {
                "pixels": gymnasium.spaces.Dict(dict.fromkeys(VIEWS, view)),
                "agent_pos": gymnasium.spaces.Box(-_STATE_LIMIT, _STATE_LIMIT, dtype=np.float32),
            }
        )
        self.action_space = gymnasium.spaces.Box(-1, 1, (7,), np.float32)

    @property
    def task_description(self) -> str:
        """The instruction of the current episode."""
        return self.world.instruction

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode: a pure function of `seed`; without one, the next random one.

        Args:
            seed: In [0, 2**32).
            options: `{"task": index}` overrides the instruction for this episode.
        """
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**32))
        self.world.reset(seed, (options or {}).get("task", self.task))
        self._steps = 0
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Execute one action `(7,)`, clipped to [-1, 1]."""
        is_success = self.world.step(action)
        self._steps += 1
        is_over = self._steps >= self._max_episode_steps
        return self._observation(), float(is_success), is_success, is_over, self._info()

    def render(self) -> np.ndarray | None:
        """The front view, uint8 `(H, W, 3)`."""
        return self.world.render("front") if self.render_mode == "rgb_array" else None

    def _observation(self) -> dict[str, Any]:
        pixels = {view: self.world.render(view) for view in VIEWS}
        return {"pixels": pixels, "agent_pos": self.world.state()}

    def _info(self) -> dict[str, Any]:
        return {"is_success": self.world.is_success, "task": self.task_description}
