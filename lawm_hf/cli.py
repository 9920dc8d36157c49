# SPDX-License-Identifier: Apache-2.0
"""The command `lawm-hf`: recipes and tools by name, each imported when it is called."""

import difflib
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from .arguments import run_command
from .commands import RECIPES, TOOLS, flags_of


def main_of(command: str) -> Callable[[Any], Any]:
    """What a command calls with its flags; heavy to import."""
    name = command.split()[-1]
    if command in RECIPES:
        return import_module(f"{__package__}.recipes.{name}").main
    return import_module(f"{__package__}.commands.{name}").main


def main() -> None:
    """Run what the command line names."""
    argv = sys.argv[1:]
    command = next((n for n in (*RECIPES, *TOOLS) if argv[: len(n.split())] == n.split()), "")
    if not command:
        _help(argv)
    rest = argv[len(command.split()) :]
    sys.argv = [f"lawm-hf {command}", *rest]  # What usage lines show.
    run_command(lambda args: main_of(command)(args), flags_of(command), rest)


def _help(argv: list[str]) -> None:
    names = (*RECIPES, *TOOLS)
    lines = [f"  {name:<15}{(flags_of(name).__doc__ or '').splitlines()[0]}" for name in names]
    told = ["usage: lawm-hf COMMAND [config.yaml] [--flag value ...]", "", *lines, ""]
    told.append("`lawm-hf COMMAND --help` lists its flags.")
    if not argv or argv[0] in ("-h", "--help") or argv[-1] in ("-h", "--help"):
        print("\n".join(told))  # noqa: T201
        raise SystemExit(0 if argv else 2)
    close = difflib.get_close_matches(" ".join(argv[:2]), names, n=1)
    close = close or difflib.get_close_matches(argv[0], names, n=1)
    hint = f"Did you mean `{close[0]}`?" if close else f"There are: {', '.join(names)}."
    print(f"error: no command {' '.join(argv[:2])!r}. {hint}", file=sys.stderr)  # noqa: T201
    raise SystemExit(2)


if __name__ == "__main__":
    main()
