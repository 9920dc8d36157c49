# SPDX-License-Identifier: Apache-2.0
"""A robot that replays: observations of one recorded episode in, a policy's actions out to a file.

Open loop: the actions move nothing. It checks wiring, names and statistics on data of one's own.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lerobot.robots import RobotConfig

from .robot_tabletop import HardwareFreeRobot
from .safety import finite_action

_IMAGES = "observation.images."


@RobotConfig.register_subclass("lawm_replay")
@dataclass(kw_only=True)
class ReplayRobotConfig(RobotConfig):
    """Configuration of the replay.

    Args:
        dataset_root: Folder of a LeRobot v3 dataset.
        episode: Which one; after its last frame the last frame remains.
        log: Each action becomes a line: frame, the policy's values, the recorded ones.
    """

    dataset_root: Path
    episode: int = 0
    log: Path = Path("actions.jsonl")


class ReplayRobot(HardwareFreeRobot):
    """A robot whose sensors are a recording."""

    config_class = ReplayRobotConfig
    name = "lawm_replay"

    def __init__(self, config: ReplayRobotConfig):
        super().__init__(config)
        from lerobot.datasets import LeRobotDataset

        self.config, self.frame, self._is_connected = config, 0, False
        self._data: Any = LeRobotDataset(
            f"local/{config.dataset_root.name}",
            root=config.dataset_root,
            episodes=[config.episode],
        )
        self.cameras = {k.removeprefix(_IMAGES): None for k in self._data.meta.camera_keys}

    def _motors(self, key: str) -> list[str]:
        return [f"{n.removesuffix('.pos')}.pos" for n in self._data.features[key]["names"]]

    @property
    def observation_features(self) -> dict[str, Any]:  # noqa: D102
        shapes = {c: tuple(self._data.features[_IMAGES + c]["shape"]) for c in self.cameras}
        return dict.fromkeys(self._motors("observation.state"), float) | shapes

    @property
    def action_features(self) -> dict[str, Any]:  # noqa: D102
        return dict.fromkeys(self._motors("action"), float)

    @property
    def is_connected(self) -> bool:  # noqa: D102
        return self._is_connected

    def connect(self, calibrate: bool = True) -> None:  # noqa: D102
        self.config.log.parent.mkdir(parents=True, exist_ok=True)
        self.config.log.write_text("")
        self._is_connected = True

    def disconnect(self) -> None:  # noqa: D102
        self._is_connected = False

    def get_observation(self) -> dict[str, Any]:
        """The current frame's motors and views, uint8 `(H, W, 3)`."""
        frame = self._data[self.frame]
        motors = (float(v) for v in frame["observation.state"])
        images = {c: frame[_IMAGES + c].permute(1, 2, 0) for c in self.cameras}  # In [0, 1].
        views = {c: (255 * image).round().byte().numpy() for c, image in images.items()}
        return dict(zip(self._motors("observation.state"), motors, strict=True)) | views

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Write the action down and move to the next frame."""
        action = finite_action(action, self.action_features)
        recorded = self._data[self.frame]["action"].tolist()
        values = [action[key] for key in self.action_features]
        line = {"frame": self.frame, "action": values, "recorded": recorded}
        with self.config.log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.frame = min(self.frame + 1, len(self._data) - 1)
        return action
