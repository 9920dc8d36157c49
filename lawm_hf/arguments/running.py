# SPDX-License-Identifier: Apache-2.0
"""A command from its first word to its last."""

import io
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from .fields import as_flags
from .outcome import Outcome, stdout_is_stderr
from .parsing import parse_args
from .quiet import quiet_libraries
from .screen import one_screen, take_switch

# Words that our documents and configurations write where your own value belongs.
_PLACEHOLDERS = {
    "DIR": "the folder of your own copy",
    "COMMIT": "a commit of the repository (40 hexadecimal digits)",
    "CAMERA": "a camera's name, which `lawm-hf data inspect` lists",
    "USER": "your name on the Hub",
}
_PLACEHOLDER = re.compile(rf"(?:^|[:@=])({'|'.join(_PLACEHOLDERS)})(?=[,/]|$)")


def run_command[T](
    main: Callable[[T], Outcome | None], arguments_class: type[T], argv: list[str] | None = None
) -> None:
    """A command: parse, check, call `main`, tell what it has produced; see `one_screen`.

    Raises:
        SystemExit: If that has a status of its own.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # of a terminal that knows few letters
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with one_screen(argv):
        as_json, is_verbose = take_switch(argv, "json"), take_switch(argv, "verbose")
        args = parse_args(arguments_class, argv)
        check_placeholders(args)
        if not is_verbose and not os.environ.get("LAWM_VERBOSE"):
            quiet_libraries()
        with stdout_is_stderr(as_json):
            outcome = main(args)
    if outcome is not None:
        try:
            outcome.tell(as_json)
            print(end="", flush=True)  # noqa: T201
        except BrokenPipeError:  # `| head` has seen enough: nobody is there to be told
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if outcome.status:
            raise SystemExit(outcome.status)


def check_placeholders(args: Any) -> None:
    """Refuse sources and folders that still hold a word in place of the user's own value.

    Raises:
        ValueError: If one does, with what belongs there.
    """
    for name, value in as_flags(args).items():
        for text in value if isinstance(value, list) else [value]:
            # Plans are JSON: their dry run lists what is missing.
            found = _PLACEHOLDER.search(str(text)) if not str(text).startswith("{") else None
            if found:
                raise ValueError(
                    f"`{name}` must not hold the word {found[1]}, which stands for "
                    f"{_PLACEHOLDERS[found[1]]}, got {text!r}. Replace it with yours."
                )
