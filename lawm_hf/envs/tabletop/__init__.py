# SPDX-License-Identifier: Apache-2.0
"""The embedded tabletop: a MuJoCo scene, its gymnasium environment, an expert and a recorder."""

from .expert import ScriptedExpert
from .gym_env import TabletopEnv
from .recorder import record_tabletop
from .simulation import CONTROL_HZ, VIEWS, Tabletop
from .tasks import SUITES

__all__ = [
    "CONTROL_HZ",
    "SUITES",
    "VIEWS",
    "ScriptedExpert",
    "Tabletop",
    "TabletopEnv",
    "record_tabletop",
]
