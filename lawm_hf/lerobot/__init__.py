# SPDX-License-Identifier: Apache-2.0
"""What LeRobot's commands learn from this package: policy, environment and robots.

LeRobot finds them when the distribution `lerobot_policy_lawm` is installed (`plugins/`), or with
the flag `--lawm.discover_packages_path=lawm_hf.lerobot`.
"""

from .configuration_lawm import LeRobotLAWMConfig
from .env_gym import LawmGymEnv, LawmTabletopEnv
from .robot_replay import ReplayRobot, ReplayRobotConfig
from .robot_tabletop import TabletopRobot, TabletopRobotConfig
from .safety import SafeArm, SafeArmConfig

__all__ = [
    "LawmGymEnv",
    "LawmTabletopEnv",
    "LeRobotLAWMConfig",
    "ReplayRobot",
    "ReplayRobotConfig",
    "SafeArm",
    "SafeArmConfig",
    "TabletopRobot",
    "TabletopRobotConfig",
]
