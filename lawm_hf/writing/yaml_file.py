# SPDX-License-Identifier: Apache-2.0
"""YAML files that people write: each key once, of a size that is read whole."""

from pathlib import Path
from typing import Any

import yaml

_LARGEST = 1 << 22  # bytes
_MOST_VALUES = 100_000  # with those that aliases repeat: ten lines of them make billions


def read_yaml(path: str | Path, may_be_empty: bool = False) -> dict[str, Any]:
    """Content of a YAML file of `key: value` lines.

    Args:
        path: The file.
        may_be_empty: Whether nothing is something; else a full disk has left that.

    Raises:
        ValueError: If it is none, has a key twice (YAML itself takes the last in silence), or is
            of an impossible size; names the file.
    """
    path = Path(path)
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path} must be a YAML file of at most {_LARGEST} bytes, got more.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
        found = _count(content, {})
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        told = " ".join(str(error).split())
        raise ValueError(
            f"{path} must be a YAML file with each key once, got: {told}. Fix it; if a full disk "
            "or a kill has damaged it, bring back a copy."
        ) from error
    content = {} if content is None and may_be_empty else content
    if not isinstance(content, dict):
        got = "nothing" if content is None else f"a {type(content).__name__}"
        raise ValueError(f"{path} must hold `key: value` lines, got {got}.")
    if found > _MOST_VALUES:
        raise ValueError(f"{path} must hold at most {_MOST_VALUES} values, got {found:.3g}.")
    return content


class _UniqueKeys(yaml.SafeLoader):
    """Where a mapping is put together, before merged keys (`<<`) join it, which may repeat."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in lines:
                raise ValueError(f"the key `{key.value}` in line {lines[name]} and in line {line}")
            lines[name] = line
        return node


def _count(value: Any, known: dict[int, int]) -> int:
    """Values in a tree, those that an alias repeats as often as it does."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = _MOST_VALUES + 1  # of what holds itself
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(value)]
