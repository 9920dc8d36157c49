# SPDX-License-Identifier: Apache-2.0
"""Texts from data sets are strangers' texts: how they reach a terminal, a log and a tokenizer."""

import unicodedata


def printable(text: str) -> str:
    """The text with its control characters, and bytes that are no text, written as escapes."""
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c)[0] == "C" else c
        for c in text
    )
