# SPDX-License-Identifier: Apache-2.0
"""Words of others (names of cameras, folders and datasets) on a card: shown, never obeyed."""

import re


def plain(text: object) -> str:
    """On one line, without control and formatting characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def escape(text: object) -> str:
    """As Markdown text: no markup, link, picture, heading or cell of a table."""
    return re.sub(r"([\\`*\[\]<>&|!~#$])", r"\\\1", plain(text))


def code(text: object) -> str:
    """As a code span, whatever backticks are in it; `cell` is for tables."""
    text = plain(text)
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"`{text}`" if len(ticks) == 1 else f"{ticks} {text} {ticks}"


def cell(markdown: str) -> str:
    """Markdown for a cell of a table: a bar divides cells even in a code span."""
    return re.sub(r"(?<!\\)\|", r"\\|", markdown)


def literal(text: str) -> str:
    """As a Python string, in double quotes where that changes nothing."""
    quoted = repr(text)
    return f'"{quoted[1:-1]}"' if quoted[0] == "'" and '"' not in text else quoted
