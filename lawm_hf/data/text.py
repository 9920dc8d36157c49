# SPDX-License-Identifier: Apache-2.0
"""Texts from datasets are strangers' texts: how they reach a terminal, a log and a tokenizer."""

import os

from ..writing.text import printable as printable


def from_path(path: str) -> str:
    """A file name as text: one that is not UTF-8 is of an old system, and read as Latin-1."""
    try:
        path.encode()
    except UnicodeEncodeError:
        path = os.fsencode(path).decode("latin-1")
    return printable(path)
