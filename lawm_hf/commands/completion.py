# SPDX-License-Identifier: Apache-2.0
"""`lawm-hf completion`."""

import argparse
import dataclasses
from dataclasses import dataclass
from typing import Any

from ..arguments import CommandArgs, Outcome, arg
from ..arguments.fields import kind_of
from ..arguments.help import add_flags
from . import RECIPES, TOOLS, flags_of


@dataclass
class CompletionArgs(CommandArgs):
    """Print what a shell needs to complete commands, flags and values with the Tab key.

    bash: lawm-hf completion bash > ~/.local/share/bash-completion/completions/lawm-hf
    zsh:  lawm-hf completion zsh > ~/.zfunc/_lawm-hf     (in .zshrc: fpath+=~/.zfunc; compinit)
    fish: lawm-hf completion fish > ~/.config/fish/completions/lawm-hf.fish
    """

    shell: str = arg(..., "your shell", choices=("bash", "zsh", "fish"), positional=True)


def main(args: CompletionArgs) -> Outcome:
    """Make the script: pressing Tab runs no Python."""
    import shtab

    script = shtab.complete(_whole_parser(shtab.FILE), shell=args.shell)
    return Outcome({"shell": args.shell, "script": script}, script)


def _whole_parser(file: Any) -> argparse.ArgumentParser:
    """All commands in one parser."""
    root = argparse.ArgumentParser("lawm-hf")
    nodes = {"": root.add_subparsers()}
    for command in (*RECIPES, *TOOLS):
        group, _, name = command.rpartition(" ")
        if group not in nodes:
            nodes[group] = nodes[""].add_parser(group, help=f"lawm-hf {group} ...").add_subparsers()
        flags = flags_of(command)
        about = (flags.__doc__ or "").splitlines()[0]
        parser = nodes[group].add_parser(name, help=about, add_help=False)
        fields = {field.name.rstrip("_"): field for field in dataclasses.fields(flags)}
        for field, action in zip(fields.values(), add_flags(parser, fields), strict=True):
            action.choices = field.metadata["choices"]
            if kind_of(field) is bool:
                action.choices = ("true", "false")
            elif kind_of(field) not in (int, float) and not action.choices:
                action.complete = file  # type: ignore[attr-defined]
        if command in RECIPES:
            config = parser.add_argument("config", nargs="?", help="a YAML file of flags")
            config.complete = file  # type: ignore[attr-defined]
    return root
