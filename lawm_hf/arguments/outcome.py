# SPDX-License-Identifier: Apache-2.0
"""What a command has produced: its last words and what to type next, or one JSON object."""

import dataclasses
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from ..writing.text import printable_lines


@dataclasses.dataclass
class Outcome:
    """What the `main` of a command returns; of several processes the main one's.

    Args:
        made: What `--json` prints: folders, files, numbers.
        text: The last words.
        following: Commands that come next, without `lawm-hf`.
        status: Exit status.
    """

    made: dict[str, Any]
    text: str = ""
    following: Sequence[Sequence[str | Path]] = ()
    status: int = 0

    def tell(self, as_json: bool) -> None:
        """Print it."""
        typed = [list(map(str, words)) for words in self.following]
        lines = [shlex.join([*program(words[0]), *words]) for words in typed]
        if as_json:
            told = self.made | ({"next": lines} if lines else {})
            plain = json.dumps(told, default=str)  # JSON has no NaN: what is not a number is null
            print(json.dumps(json.loads(plain, parse_constant=lambda _: None), indent=2))  # noqa: T201
            return
        if self.text:
            print(printable_lines(self.text))  # noqa: T201
        if lines:
            print("\nNext:", *lines, sep="\n  ")  # noqa: T201


@contextmanager
def stdout_is_stderr(wanted: bool) -> Iterator[None]:
    """Whatever is printed, by child processes and C libraries too, goes to stderr meanwhile."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def program(command: str = "") -> list[str]:
    """How this user calls `lawm-hf` for a command."""
    if "UV" in os.environ:  # `uv run` sets it.
        uv = ["uv"] if shutil.which("uv") else ["python3", "-m", "uv"]
        extra = ["--extra", "play"] if command == "play" else []  # what `uv run` does not bring
        return [*uv, "run", *extra, "lawm-hf"]
    return ["lawm-hf"] if shutil.which("lawm-hf") else [sys.executable, "-m", "lawm_hf.cli"]
