# SPDX-License-Identifier: Apache-2.0
"""Texts from datasets are strangers' texts: how they reach a terminal, a log and a tokenizer."""

import codecs
import json
import os
from typing import Any

from ..writing.text import printable as printable


def from_path(path: str) -> str:
    """A file name as text: one that is not UTF-8 is of an old system, and read as Latin-1."""
    try:
        path.encode()
    except UnicodeEncodeError:
        path = os.fsencode(path).decode("latin-1")
    return printable(path)


def decoded(content: bytes) -> str:
    """Text of a file: UTF-8, or UTF-16 if its first bytes say so; without those.

    Raises:
        UnicodeDecodeError: If it is neither.
    """
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if is_utf16 else "utf-8-sig")


def json_lines(content: bytes) -> list[Any]:
    """Values of a file of one a line. A text may hold letters that Python takes for ends of lines.

    Raises:
        ValueError: If a line is no JSON.
    """
    return [json.loads(line) for line in decoded(content).split("\n") if line.strip()]


def first_text(value: Any) -> str:
    """The instruction in a field: a text or the first of several; a number is none."""
    texts = value if isinstance(value, list) else [value]
    return next((text for text in texts if isinstance(text, str) and text.strip()), "")
