# SPDX-License-Identifier: Apache-2.0
"""The tabletop as a robot of LeRobot's commands: `lerobot-rollout --robot.type=lawm_tabletop`.

Closed loop and without hardware: `send_action` advances the simulation by one control step, however
much time has passed. Episodes end as those of the gymnasium environment do and are counted, so that
the success rate of `lerobot-rollout` can be compared with that of an evaluation, seed by seed.
"""

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lerobot.robots import Robot, RobotConfig

from ..writing.text import get_logger
from .safety import finite_action

if TYPE_CHECKING:
    from ..envs import TabletopEnv

logger = get_logger(__name__)

# Those of `lawm_hf.envs`, which needs MuJoCo: imported when connecting.
_POSE = ("x", "y", "z", "axis_angle1", "axis_angle2", "axis_angle3")
STATE_KEYS = [f"{name}.pos" for name in (*_POSE, "gripper", "gripper2")]
ACTION_KEYS = [f"{name}.pos" for name in (*_POSE, "gripper")]
_VIEWS = ("front", "wrist")


@RobotConfig.register_subclass("lawm_tabletop")
@dataclass(kw_only=True)
class TabletopRobotConfig(RobotConfig):
    """Configuration of the simulated robot.

    `lerobot-rollout` tells the policy one instruction for the whole run, so a robot plays the
    scenes of one instruction: of the seeds from `first_seed` on, those that belong to `task`.

    Args:
        suite: `"reach"`, `"place2"` or `"place4"`.
        task: The instruction, the same as `--task`.
        first_seed: Where the seeds of the scenes begin.
        num_episodes: Ends the run (as Ctrl-C does) after this many; 0 continues until `--duration`.
        n_action_steps: How many actions the policy queues before it plans again. LeRobot does not
            tell a policy that a new scene begins, so the next episode waits until the queue is
            empty. Policies that average overlapping chunks must not, here: use one action a plan.
        image_size: Side of the square views, in pixels.
        log: File to which each episode adds a line, as in `episodes.jsonl` of an evaluation.
    """

    suite: str = "reach"
    task: str = "go to the red cube"
    first_seed: int = 0
    num_episodes: int = 0
    n_action_steps: int = 1
    image_size: int = 64
    log: Path | None = None


class HardwareFreeRobot(Robot):
    """A robot with nothing to calibrate and nothing to configure."""

    @property
    def is_calibrated(self) -> bool:  # noqa: D102
        return True

    def calibrate(self) -> None:  # noqa: D102
        pass

    def configure(self) -> None:  # noqa: D102
        pass


class TabletopRobot(HardwareFreeRobot):
    """A robot whose hardware is the simulated tabletop."""

    config_class = TabletopRobotConfig
    name = "lawm_tabletop"

    def __init__(self, config: TabletopRobotConfig):
        super().__init__(config)
        self.config = config
        self.cameras = dict.fromkeys(_VIEWS)  # LeRobot counts them.
        self.results: list[dict[str, Any]] = []
        self._env: TabletopEnv | None = None
        if config.n_action_steps < 1:
            raise ValueError(f"`n_action_steps` must be at least 1, got {config.n_action_steps}.")

    @property
    def observation_features(self) -> dict[str, Any]:
        """Eight motors in the order of `observation.state`, then two cameras."""
        shape = (self.config.image_size, self.config.image_size, 3)
        return dict.fromkeys(STATE_KEYS, float) | dict.fromkeys(_VIEWS, shape)

    @property
    def action_features(self) -> dict[str, Any]:
        """Seven increments in the order of `action`; `.pos` is the name that LeRobot requires."""
        return dict.fromkeys(ACTION_KEYS, float)

    @property
    def is_connected(self) -> bool:
        """Whether the scene stands."""
        return self._env is not None

    def connect(self, calibrate: bool = True) -> None:
        """Build the scene and begin the first episode."""
        from ..envs import TabletopEnv

        env = TabletopEnv(self.config.suite, image_size=self.config.image_size)
        tasks = env.world.suite.tasks
        if self.config.task not in tasks:
            raise ValueError(
                f"`--robot.task` must be an instruction of suite `{self.config.suite}`, got "
                f"{self.config.task!r}. Choose one of: {'; '.join(tasks)}."
            )
        first = self.config.first_seed
        self._seed = first + (tasks.index(self.config.task) - first) % len(tasks)
        self._env, self._num_tasks = env, len(tasks)
        self._begin_episode()

    def disconnect(self) -> None:
        """Report; an unfinished episode does not count."""
        successes = sum(r["is_success"] for r in self.results)
        logger.info("Tabletop: %d of %d episodes succeeded", successes, len(self.results))
        self._env = None

    def get_observation(self) -> dict[str, Any]:
        """Motors as floats and views as uint8 `(H, W, 3)`; the same until the next action."""
        self._require_env()
        state = (float(value) for value in self._observation["agent_pos"])
        return dict(zip(STATE_KEYS, state, strict=True)) | self._observation["pixels"]

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Advance by one control step; after an episode's last one, set up the next scene."""
        env = self._require_env()
        action = finite_action(
            action,
            ACTION_KEYS,
            "If this is lerobot-rollout returning to the first position: actions are increments "
            "here, so pass --return_to_initial_position=false.",
        )
        if self._waiting:
            self._waiting -= 1
            return action
        vector = np.array([action[key] for key in ACTION_KEYS])
        self._observation, _, is_success, is_late, _ = env.step(vector)
        self._length += 1
        if is_success or is_late:
            self._end_episode(is_success)
        return action

    def _begin_episode(self) -> None:
        self._observation, _ = self._require_env().reset(seed=self._seed)
        self._length = self._waiting = 0

    def _end_episode(self, is_success: bool) -> None:
        length, task = self._length, self.config.task
        result = {"seed": self._seed, "task": task, "is_success": is_success, "length": length}
        self.results.append(result)
        if self.config.log is not None:
            self.config.log.parent.mkdir(parents=True, exist_ok=True)
            with self.config.log.open("a") as file:
                file.write(json.dumps(result) + "\n")
        self._seed += self._num_tasks
        self._begin_episode()
        self._waiting = -length % self.config.n_action_steps
        if len(self.results) == self.config.num_episodes:
            signal.raise_signal(signal.SIGINT)  # LeRobot's commands then finish in order.

    def _require_env(self) -> "TabletopEnv":
        if self._env is None:
            raise RuntimeError("The tabletop robot is not connected. Call `connect()` first.")
        return self._env
