# SPDX-License-Identifier: Apache-2.0
"""The embedded tabletop: a MuJoCo scene, its gymnasium environment, an expert and a recorder."""

import gymnasium

from .expert import ScriptedExpert
from .gym_env import TabletopEnv
from .recorder import record_tabletop
from .tabletop import Tabletop
from .tasks import SUITES

__all__ = ["SUITES", "ScriptedExpert", "Tabletop", "TabletopEnv", "record_tabletop"]

# `TabletopEnv` itself truncates: suites differ in `max_steps`, a registration knows only one.
gymnasium.register("lawm_hf/Tabletop-v0", entry_point="lawm_hf.envs.gym_env:TabletopEnv")
