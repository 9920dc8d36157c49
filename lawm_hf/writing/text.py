# SPDX-License-Identifier: Apache-2.0
"""Strangers' texts (instructions, names of files) on a terminal and in a log."""

import logging
import unicodedata


def printable(text: str) -> str:
    """The text with its control characters, and bytes that are no text, written as escapes."""
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c)[0] == "C" else c
        for c in text
    )


def printable_lines(text: str) -> str:
    """The same for a text of several lines."""
    return "\n".join(map(printable, text.split("\n")))


def get_logger(name: str) -> logging.Logger:
    """As `logging.getLogger`; its messages cannot steer a terminal."""
    logger = logging.getLogger(name)
    if _make_printable not in logger.filters:
        logger.addFilter(_make_printable)
    return logger


def _make_printable(record: logging.LogRecord) -> bool:
    record.msg, record.args = printable_lines(record.getMessage()), ()
    return True
