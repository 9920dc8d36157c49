# SPDX-License-Identifier: Apache-2.0
"""A command from its first word to its last."""

import re
import sys
from collections.abc import Callable
from typing import Any

from .fields import as_flags
from .parsing import parse_args
from .screen import one_screen

# Words that our documents and configurations write where your own value belongs.
_PLACEHOLDERS = {
    "DIR": "the folder of your own copy",
    "COMMIT": "a commit of the repository (40 hexadecimal digits)",
    "CAMERA": "a camera's name, which `lawm-hf data inspect` lists",
}
_PLACEHOLDER = re.compile(rf"(?:^|[:@=])({'|'.join(_PLACEHOLDERS)})(?=[,/]|$)")


def run_command[T](
    main: Callable[[T], Any], arguments_class: type[T], argv: list[str] | None = None
) -> None:
    """The command line of a recipe: parse, check, call `main`; see `one_screen`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    with one_screen(argv):
        args = parse_args(arguments_class, argv)
        check_placeholders(args)
        main(args)


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
                    f"`--{name}` must not hold the word {found[1]}, which stands for "
                    f"{_PLACEHOLDERS[found[1]]}, got {text!r}. Replace it with yours."
                )
