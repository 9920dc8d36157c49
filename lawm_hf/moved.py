# SPDX-License-Identifier: Apache-2.0
"""Modules under their former names: the same objects, and a warning."""

import importlib
import importlib.util
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_MOVED = {
    "cards": "hub.card",
    "data.bridge": "data.formats.bridge",
    "data.lerobot": "data.formats.lerobot",
    "data.libero": "data.formats.libero",
    "data.videos": "data.formats.videos",
    "doctor": "evaluation.libero_doctor",
    "envs.expert": "envs.tabletop.expert",
    "envs.gym_env": "envs.tabletop.gym_env",
    "envs.lerobot_writer": "writing.lerobot",
    "envs.recorder": "envs.tabletop.recorder",
    "envs.render": "envs.tabletop.render",
    "envs.scene": "envs.tabletop.scene",
    "envs.tasks": "envs.tabletop.tasks",
    "export": "hub.lerobot_export",
    "lerobot.env_tabletop": "lerobot.env_gym",
    "licences": "hub.licences",
    "results": "evaluation.results",
    "run_record": "training.run_log",
    "transfer": "training.transfer",
}


class MovedModules(MetaPathFinder, Loader):
    """Finds a module by its old name."""

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        package, _, name = fullname.partition(".")
        if package != __package__ or name not in _MOVED:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module itself, not a copy."""
        new = f"{__package__}.{_MOVED[spec.name.partition('.')[2]]}"
        warnings.warn(f"`{spec.name}` is now `{new}`.", FutureWarning, stacklevel=2)
        module = importlib.import_module(new)
        self._own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It was executed under its own name, which stays."""
        module.__spec__ = self._own
