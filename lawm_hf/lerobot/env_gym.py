# SPDX-License-Identifier: Apache-2.0
"""Any gymnasium environment that our evaluation plays, as a LeRobot environment.

    lerobot-eval --env.type=lawm_gym --env.gym_id=my_package:my/Env-v0 --env.gym_options='{"n": 2}'
    lerobot-eval --env.type=lawm_tabletop --env.task=reach

Observations are `{"pixels": {view: (H, W, 3) uint8}, "agent_pos": (P,)}`: they become
`observation.images.<view>` and `observation.state`. The environment has `task_description` and
`_max_episode_steps` (or a registered `max_episode_steps`), and reports `info["is_success"]`.
Episode k starts from seed `--seed` + k, whatever the batch size: `lerobot-eval --seed=0
--eval.n_episodes=200` plays the initial states of `recipes/evaluate.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs import EnvConfig
from lerobot.envs.utils import freeze_after_episode_end
from lerobot.utils.constants import ACTION, OBS_IMAGE, OBS_IMAGES, OBS_STATE


@EnvConfig.register_subclass("lawm_gym")
@dataclass
class LawmGymEnv(EnvConfig):
    """Configuration of an environment for `lerobot-eval` and `lerobot-train`.

    Args:
        gym_id: As `gymnasium.make` takes it: `PACKAGE:` before the id imports the package.
        gym_options: Arguments of the environment.
        fps: Of its simulation; 0 or that, there is nothing to choose.
    """

    gym_id: str = ""  # pyright: ignore[reportIncompatibleMethodOverride]
    gym_options: dict[str, Any] = field(default_factory=dict)
    fps: int = 0

    def __post_init__(self):
        import lawm_hf.envs  # noqa: F401  (registers ours; needs MuJoCo, so not before)

        env = gymnasium.make(self.gym_id, render_mode="rgb_array", **self.gym_options)
        rate = env.metadata.get("render_fps", 30)
        self._spec: Any = env.spec
        if self.fps not in (0, rate):
            raise ValueError(
                f"`{self.gym_id}` is simulated at {rate} Hz, got --env.fps={self.fps}. Leave the "
                "flag out."
            )
        self.fps, self.task = rate, self.task or self.gym_id.rpartition("/")[2]
        spaces: dict[str, Any] = getattr(env.observation_space, "spaces", {})
        pixels = spaces["pixels"]
        views = {f"{OBS_IMAGES}.{k}": v for k, v in getattr(pixels, "spaces", {}).items()}
        views = views or {OBS_IMAGE: pixels}
        self.features = {k: PolicyFeature(FeatureType.VISUAL, v.shape) for k, v in views.items()}
        self.features_map = {key: key for key in (*self.features, ACTION)}
        if "agent_pos" in spaces:
            self.features["agent_pos"] = PolicyFeature(FeatureType.STATE, spaces["agent_pos"].shape)
            self.features_map["agent_pos"] = OBS_STATE
        self.features[ACTION] = PolicyFeature(FeatureType.ACTION, env.action_space.shape or ())
        env.close()

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Arguments of the environment."""
        return self.gym_options

    def create_envs(
        self, n_envs: int, use_async_envs: bool = False
    ) -> dict[str, dict[int, VectorEnv]]:
        """`{task: {0: vector environment}}`.

        An environment whose episode is over stands still until the batch's last one is over:
        LeRobot's default would simulate another episode in it, and count its first step.
        """
        make = freeze_after_episode_end(partial(_make, self._spec))
        makers: list[Callable[[], gymnasium.Env]] = [make] * n_envs
        if use_async_envs and n_envs > 1:
            vector: VectorEnv = AsyncVectorEnv(
                makers, context="forkserver", autoreset_mode=AutoresetMode.NEXT_STEP
            )
        else:
            vector = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)
        return {str(self.task): {0: vector}}


@EnvConfig.register_subclass("lawm_tabletop")
@dataclass
class LawmTabletopEnv(LawmGymEnv):
    """Configuration of the tabletop.

    Args:
        task: The suite: `"reach"`, `"place2"` or `"place4"`.
        instruction: Index of the instruction, for policies that do not read (ACT); None lets the
            seed choose, as in our own evaluation.
        image_size: Side of the square views, in pixels.
    """

    gym_id: str = "lawm_hf/Tabletop-v0"
    task: str | None = "reach"
    instruction: int | None = None
    image_size: int = 64

    def __post_init__(self):
        own = {"suite": self.task, "task": self.instruction, "image_size": self.image_size}
        self.gym_options = self.gym_options | own
        super().__post_init__()


class _ReportsSuccess(gymnasium.Wrapper):
    """LeRobot counts an episode without `is_success` as a failure, in silence."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        if (result[2] or result[3]) and "is_success" not in result[4]:
            raise ValueError(
                '`info["is_success"]` must say at the end of an episode whether it succeeded, got '
                f"{sorted(result[4])}. Add it to {self.env}."
            )
        return result


def _make(spec: EnvSpec) -> gymnasium.Env:
    """From the whole specification, since a worker process has not imported its package."""
    return _ReportsSuccess(gymnasium.make(spec))
