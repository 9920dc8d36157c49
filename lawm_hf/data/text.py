# SPDX-License-Identifier: Apache-2.0
"""Texts from data sets are strangers' texts: how they reach a terminal, a log and a tokenizer."""

import os
import unicodedata


def printable(text: str) -> str:
    """The text with its control characters, and bytes that are no text, written as escapes."""
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c)[0] == "C" else c
        for c in text
    )


def from_path(path: str) -> str:
    """A file name as text: one that is not UTF-8 is of an old system, and read as Latin-1."""
    try:
        path.encode()
    except UnicodeEncodeError:
        path = os.fsencode(path).decode("latin-1")
    return printable(path)
