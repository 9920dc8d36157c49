# SPDX-License-Identifier: Apache-2.0
"""Simulators as gymnasium environments: the embedded tabletop, and `lawm_hf.envs.libero`."""

from importlib import import_module
from typing import Any

import gymnasium

# Both truncate themselves: suites differ in their number of steps, a registration knows only one.
gymnasium.register("lawm_hf/Tabletop-v0", entry_point="lawm_hf.envs.tabletop:TabletopEnv")
gymnasium.register("lawm_hf/Libero-v0", entry_point="lawm_hf.envs.libero:LiberoEnv")

_TABLETOP = ("SUITES", "ScriptedExpert", "Tabletop", "TabletopEnv", "record_tabletop")


def __getattr__(name: str) -> Any:
    """What the tabletop has, imported when asked for: other environments need no MuJoCo."""
    if name not in _TABLETOP:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("lawm_hf.envs.tabletop"), name)
