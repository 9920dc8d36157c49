# SPDX-License-Identifier: Apache-2.0
"""The embedded tabletop: a MuJoCo scene, its gymnasium environment, an expert and a recorder.

`lawm_hf.envs.libero` has the like for LIBERO.
"""

import gymnasium

from .expert import ScriptedExpert
from .gym_env import TabletopEnv
from .recorder import record_tabletop
from .tabletop import Tabletop
from .tasks import SUITES

__all__ = ["SUITES", "ScriptedExpert", "Tabletop", "TabletopEnv", "record_tabletop"]

# Both truncate themselves: suites differ in their number of steps, a registration knows only one.
gymnasium.register("lawm_hf/Tabletop-v0", entry_point="lawm_hf.envs.gym_env:TabletopEnv")
gymnasium.register("lawm_hf/Libero-v0", entry_point="lawm_hf.envs.libero:LiberoEnv")
