# SPDX-License-Identifier: Apache-2.0
"""Simulators as gymnasium environments: the embedded tabletop, and `lawm_hf.envs.libero`."""

import gymnasium

from .tabletop import SUITES, ScriptedExpert, Tabletop, TabletopEnv, record_tabletop

__all__ = ["SUITES", "ScriptedExpert", "Tabletop", "TabletopEnv", "record_tabletop"]

# Both truncate themselves: suites differ in their number of steps, a registration knows only one.
gymnasium.register("lawm_hf/Tabletop-v0", entry_point="lawm_hf.envs.tabletop:TabletopEnv")
gymnasium.register("lawm_hf/Libero-v0", entry_point="lawm_hf.envs.libero:LiberoEnv")
