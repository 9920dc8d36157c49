# SPDX-License-Identifier: Apache-2.0
"""What `--help` shows, and what the completion of a shell knows: a parser with flags in groups."""

import argparse
import dataclasses
import inspect
import typing
from pathlib import Path
from typing import Any

from .fields import default_of, is_list, kind_of
from .screen import fail

# Groups come in this order, others after them, and then what every command has.
_ORDER = ("", "data", "model", "environment", "plan", "training", "output", "tasks")
_LAST = "of every command"
_METAVARS = {int: "N", float: "X", bool: "true|false", str: "TEXT", Path: "PATH"}
# Of every command; `run_command` takes them out before the parser sees the rest.
SWITCHES = {
    "json": "print what was produced as one JSON object; all else goes to stderr",
    "verbose": "let the libraries talk; or LAWM_VERBOSE=1",
    "traceback": "show where an error comes from",
}


class Parser(argparse.ArgumentParser):
    """Its errors are ours: one line, not the usage of fifty flags."""

    def error(self, message: str) -> typing.NoReturn:
        """End with code 2."""
        fail(f"{message}. `--help` lists what there is.")


def make_parser(arguments_class: type, fields: dict[str, dataclasses.Field]) -> Parser:
    """A parser that knows the flags of a dataclass, all their values as text."""
    needed = [
        name if field.metadata["positional"] else f"--{name} {_metavar(field)}"
        for name, field in fields.items()
        if default_of(field) is ...
    ]
    needed += [
        f"[{name}]"
        for name, field in fields.items()
        if field.metadata["positional"] and default_of(field) is not ...
    ]
    parser = Parser(
        usage=" ".join(["%(prog)s [CONFIG.yaml]", *needed, "[--flag value ...]"]),
        description=inspect.cleandoc(arguments_class.__doc__ or ""),
        epilog="CONFIG.yaml gives values, flags override them. `-` and `_` are the same.",
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, 2, 30),
        allow_abbrev=False,
        add_help=False,
    )
    add_flags(parser, fields)
    return parser


def add_flags(
    parser: argparse.ArgumentParser, fields: dict[str, dataclasses.Field]
) -> list[argparse.Action]:
    """Add the flags of a dataclass, each in its group, and those of every command.

    Returns:
        One for each field.
    """
    used = {field.metadata["group"] for field in fields.values()} - {_LAST}
    order = [name for name in _ORDER if name in used] + sorted(used - {*_ORDER})
    groups = {name: parser.add_argument_group(name or "options") for name in (*order, _LAST)}
    added = []
    for name, field in fields.items():
        told = field.metadata
        options: dict[str, Any] = {"help": _text(field).replace("%", "%%")}
        options["metavar"] = name if told["positional"] else _metavar(field)
        if not told["positional"]:
            options["required"] = default_of(field) is ...
        flag = name if told["positional"] else f"--{name}"
        may_lack = "?" if told["positional"] and default_of(field) is not ... else None
        options["nargs"] = "+" if is_list(field) else may_lack
        added.append(groups[told["group"]].add_argument(flag, **options))
    always = groups[_LAST]
    always.add_argument("-h", "--help", action="help", help="show this and exit")
    for name, text in SWITCHES.items():
        always.add_argument(f"--{name}", action="store_true", default=argparse.SUPPRESS, help=text)
    return added


def _metavar(field: dataclasses.Field) -> str:
    if field.metadata["choices"] and not is_list(field):
        return "|".join(field.metadata["choices"])
    return "JSON" if field.metadata["is_json"] else _METAVARS[kind_of(field)]


def _text(field: dataclasses.Field) -> str:
    """Its help, and the default if there is one to tell."""
    told, default = field.metadata, default_of(field)
    text = told["help"]
    if told["choices"] and (is_list(field) or told["positional"]):
        text += f": {', '.join(told['choices'])}"
    if default in (..., None, "", "{}", []):
        return text
    shown = " ".join(map(str, default)) if is_list(field) else str(default)
    return f"{text} (default: {shown.lower() if default is False or default is True else shown})"
