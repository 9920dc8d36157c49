# SPDX-License-Identifier: Apache-2.0
"""The tabletop as a LeRobot environment: `--env.type=lawm_tabletop --env.task=reach`.

Observations carry the names of the recorded data sets, so no rename map is needed:
`observation.images.front`, `observation.images.wrist` and `observation.state`. Episode k starts
from seed `--seed` + k, whatever the batch size: `lerobot-eval --seed=0 --eval.n_episodes=200` plays
the initial states of `recipes/evaluate.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs import EnvConfig
from lerobot.envs.utils import freeze_after_episode_end
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

_VIEWS = ("front", "wrist")  # Those of `lawm_hf.envs`, which needs MuJoCo: imported when used.


@EnvConfig.register_subclass("lawm_tabletop")
@dataclass
class LawmTabletopEnv(EnvConfig):
    """Configuration of the tabletop for `lerobot-eval` and `lerobot-train`.

    Args:
        task: The suite: `"reach"`, `"place2"` or `"place4"`.
        instruction: Index of the instruction, for policies that do not read (ACT); None lets the
            seed choose, as in our own evaluation.
        image_size: Side of the square views, in pixels.
    """

    task: str | None = "reach"
    instruction: int | None = None
    fps: int = 10
    image_size: int = 64

    def __post_init__(self):
        if self.fps != 10:
            raise ValueError(
                f"The tabletop is simulated at 10 Hz, got --env.fps={self.fps}. Leave the flag out."
            )
        shape = (self.image_size, self.image_size, 3)
        views = {f"{OBS_IMAGES}.{v}": PolicyFeature(FeatureType.VISUAL, shape) for v in _VIEWS}
        self.features = views | {
            "agent_pos": PolicyFeature(FeatureType.STATE, (8,)),
            ACTION: PolicyFeature(FeatureType.ACTION, (7,)),
        }
        self.features_map = {key: key for key in self.features} | {"agent_pos": OBS_STATE}

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Arguments of `TabletopEnv`."""
        return {
            "suite": self.task,
            "task": self.instruction,
            "image_size": self.image_size,
        }

    def create_envs(
        self, n_envs: int, use_async_envs: bool = False
    ) -> dict[str, dict[int, VectorEnv]]:
        """`{suite: {0: vector environment}}`.

        An environment whose episode is over stands still until the batch's last one is over:
        LeRobot's default would simulate another episode in it, and count its first step.
        """
        make = freeze_after_episode_end(partial(_make_tabletop, **self.gym_kwargs))
        makers: list[Callable[[], gymnasium.Env]] = [make] * n_envs
        if use_async_envs and n_envs > 1:
            vector: VectorEnv = AsyncVectorEnv(
                makers, context="forkserver", autoreset_mode=AutoresetMode.NEXT_STEP
            )
        else:
            vector = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)
        return {str(self.task): {0: vector}}


def _make_tabletop(**kwargs: Any) -> gymnasium.Env:
    from ..envs import TabletopEnv

    return TabletopEnv(**kwargs)
