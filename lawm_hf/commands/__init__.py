# SPDX-License-Identifier: Apache-2.0
"""The commands of `lawm-hf`, a file each: its flags and, if it is a tool, what it does.

What is heavy or optional is imported inside `main`, so that help needs none of it. Recipes have
their `main` in `recipes/`.
"""

from importlib import import_module

from ..arguments import CommandArgs

RECIPES = ("pretrain", "finetune", "evaluate", "analyze", "experiment")
TOOLS = (
    "play",
    "data inspect",
    "convert",
    "label",
    "libero record",
    "export",
    "push",
    "doctor",
    "completion",
)


def flags_of(command: str) -> type[CommandArgs]:
    """The flags of a command: `InspectArgs` in `commands/inspect.py` for `data inspect`."""
    name = command.split()[-1]
    return getattr(import_module(f".{name}", __name__), f"{name.capitalize()}Args")
