# SPDX-License-Identifier: Apache-2.0
"""Guards for a first run on a real arm, around any robot of LeRobot.

    lerobot-rollout --robot.type=lawm_safe --robot.arm='{type: so101_follower, port: ...}' \
        --robot.dataset_root=DIR --robot.max_relative_target=3 --robot.max_latency_s=0.2 ...

LeRobot 0.6.1 has a speed limit (`max_relative_target`) in most of its own followers, but none for
plug-in robots, clips to no data, sends NaN, and only warns when its loop is late. An action that is
not one finite number per joint never reaches the arm. This is no emergency stop.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import draccus
from lerobot.robots import Robot, RobotConfig, make_robot_from_config
from lerobot.robots.utils import ensure_safe_goal_position

from ..writing.atomic import read_json
from ..writing.text import get_logger

logger = get_logger(__name__)


def finite_action(
    action: dict[str, Any], keys: Iterable[str], remedy: str = ""
) -> dict[str, float]:
    """The action as plain numbers.

    Args:
        action: From a policy.
        keys: Names of the robot's joints.
        remedy: What the caller knows about wrong actions.

    Raises:
        ValueError: If a joint is missing or unknown, or its goal is not one finite number.
    """
    bad = {k: v for k, v in action.items() if not _is_finite(v)}
    if bad or set(action) != set(keys):
        raise ValueError(
            f"An action must be one finite number for each of {sorted(keys)}, got "
            f"{bad or sorted(action)}. {remedy or 'Check the policy, and the state it is given.'}"
        )
    return {key: float(value) for key, value in action.items()}


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except (TypeError, ValueError, RuntimeError):  # None, text, a vector
        return False


@RobotConfig.register_subclass("lawm_safe")
@dataclass(kw_only=True)
class SafeArmConfig(RobotConfig):
    """Configuration of the guards; each of these is off when None.

    Args:
        arm: Configuration of the robot to guard, `type` and all. (A dictionary, because draccus
            cannot nest a choice in itself.)
        dataset_root: LeRobot dataset of the demonstrations: actions are clipped to the range that
            occurs in it.
        max_relative_target: Largest distance of a goal from the present position, in the motors'
            unit. For actions that are absolute positions.
        max_latency_s: An action that arrives later than this after the observation that it answers
            is dropped with a warning: the arm keeps its last goal. A few control periods.
    """

    arm: dict[str, Any]
    dataset_root: Path | None = None
    max_relative_target: float | None = None
    max_latency_s: float | None = None

    def __post_init__(self):
        super().__post_init__()
        for name in ("max_relative_target", "max_latency_s"):
            value = getattr(self, name)
            if value is not None and not (_is_finite(value) and value > 0):
                raise ValueError(
                    f"`{name}` must be a positive number, got {value}. Leave it out for no limit."
                )


class SafeArm(Robot):
    """Passes everything on to the arm; actions only after the guards."""

    config_class = SafeArmConfig
    name = "lawm_safe"

    def __init__(self, config: SafeArmConfig):
        super().__init__(config)
        self.config = config
        self.arm = make_robot_from_config(draccus.decode(RobotConfig, config.arm))
        self.num_late = self.num_refused = 0
        self._seen_at: float | None = None
        self._present: dict[str, float] = {}
        self._limits = _action_limits(config.dataset_root, list(self.action_features))
        missing = set(self.action_features) - set(self.observation_features)
        if config.max_relative_target is not None and missing:
            raise ValueError(
                "`max_relative_target` needs actions that are positions the arm also observes, got "
                f"{sorted(missing)} in actions only. Leave it out and use the arm's own limit."
            )

    @property
    def observation_features(self) -> dict[str, Any]:  # noqa: D102
        return self.arm.observation_features

    @property
    def action_features(self) -> dict[str, Any]:  # noqa: D102
        return self.arm.action_features

    @property
    def cameras(self) -> dict[str, Any]:  # noqa: D102
        return getattr(self.arm, "cameras", {})

    @property
    def is_connected(self) -> bool:  # noqa: D102
        return self.arm.is_connected

    @property
    def is_calibrated(self) -> bool:  # noqa: D102
        return self.arm.is_calibrated

    def connect(self, calibrate: bool = True) -> None:  # noqa: D102
        self.arm.connect(calibrate)

    def calibrate(self) -> None:  # noqa: D102
        self.arm.calibrate()

    def configure(self) -> None:  # noqa: D102
        self.arm.configure()

    def disconnect(self) -> None:  # noqa: D102
        self.arm.disconnect()

    def get_observation(self) -> dict[str, Any]:
        """The arm's observation; the watchdog's clock starts before the cameras are read."""
        self._seen_at = time.perf_counter()
        observation = self.arm.get_observation()
        self._present = {k: observation[k] for k in self.action_features if k in observation}
        return observation

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Send what the guards leave of the action; returns it, empty when it was dropped."""
        if self._seen_at is None:
            self.get_observation()  # Answers none: a move back to the start, say.
        latency, limit = time.perf_counter() - (self._seen_at or 0.0), self.config.max_latency_s
        self._seen_at = None
        if limit is not None and latency > limit:
            self.num_late += 1
            logger.warning("Action dropped: it took %.3f s, the limit is %.3f s", latency, limit)
            return {}
        try:
            action = self._limited(finite_action(action, self.action_features))
        except ValueError as error:
            self.num_refused += 1
            logger.error("Action refused, the arm holds its last goal: %s", error)
            return {}
        return self.arm.send_action(action)

    def _limited(self, action: dict[str, float]) -> dict[str, float]:
        for key, (low, high) in self._limits.items():
            action[key] = min(max(action[key], low), high)
        if self.config.max_relative_target is None:
            return action
        pairs = {key: (goal, self._present.get(key, math.nan)) for key, goal in action.items()}
        near = ensure_safe_goal_position(pairs, float(self.config.max_relative_target))
        return finite_action(near, pairs)  # The present position may be NaN, too.


def _action_limits(root: Path | None, keys: list[str]) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of each action key in a dataset's statistics."""
    if root is None:
        return {}
    about, statistics = root / "meta/info.json", root / "meta/stats.json"
    names = _of_actions(read_json(about, dict).get("features"), about, "names")["names"]
    if [str(name).removesuffix(".pos") for name in names] != [k.removesuffix(".pos") for k in keys]:
        raise ValueError(
            f"The dataset's actions must be the arm's, got {names} in {root} and {keys} in the "
            "arm. Give the folder that this arm recorded."
        )
    found = _of_actions(read_json(statistics, dict), statistics, "min", "max")
    limits = dict(zip(keys, zip(found["min"], found["max"], strict=True), strict=True))
    wrong = {k: v for k, v in limits.items() if not (all(map(_is_finite, v)) and v[0] <= v[1])}
    if wrong:
        raise ValueError(
            f"The range of the demonstrations' actions must be finite, got {wrong} in "
            f"{statistics}. Compute its statistics again."
        )
    return limits


def _of_actions(features: Any, path: Path, *lists: str) -> dict[str, Any]:
    """What a file of `meta/` says of `action`, with these lists in it."""
    found = features.get("action") if isinstance(features, dict) else None
    if isinstance(found, dict) and all(isinstance(found.get(key), list) for key in lists):
        return found
    raise ValueError(
        f"{path} must state {' and '.join(lists)} of `action`, got {found!r}. Give the folder of "
        "a whole dataset, or compute its statistics again."
    )
