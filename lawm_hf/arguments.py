# SPDX-License-Identifier: Apache-2.0
"""Run configuration: one flat dataclass per recipe; a YAML file gives values, flags override."""

import dataclasses
import difflib
import json
import sys
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser


def arg(default: Any, help: str) -> Any:
    """A dataclass field with a default (lists and dicts are copied) and a line of help."""
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: default.copy(), metadata={"help": help})
    return dataclasses.field(default=default, metadata={"help": help})


def parse_args[T](arguments_class: type[T], argv: list[str] | None = None) -> T:
    """Parse `[config.yaml] [--flag value ...]` into a dataclass.

    YAML values go through the same conversion as flags, so both are checked alike. A YAML mapping
    becomes a JSON string (options of a model configuration are written that way).

    Args:
        arguments_class: The recipe's dataclass.
        argv: Arguments without the program name; the command line's by default.

    Raises:
        SystemExit: With code 2 and a one-line reason, if a flag or a YAML key is unknown, or a
            value does not convert.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    names = [field.name for field in dataclasses.fields(arguments_class)]  # type: ignore[arg-type]
    parser = HfArgumentParser(arguments_class, allow_abbrev=False)  # type: ignore[arg-type]
    if argv and argv[0].endswith((".yaml", ".yml")):
        argv = _yaml_flags(Path(argv[0]), names) + argv[1:]
    values, rest = parser.parse_args_into_dataclasses(
        argv, return_remaining_strings=True, look_for_args_file=False
    )
    if rest:
        _fail(f"unknown argument {rest[0]!r}.{_suggestion(rest[0].lstrip('-'), names)}")
    return values


def parse_json_options(text: str, flag: str) -> dict[str, Any]:
    """Read the JSON mapping of a flag such as `--policy_config '{"hidden_size": 256}'`.

    Raises:
        ValueError: If the text is not a JSON mapping.
    """
    try:
        options = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise ValueError(f"`--{flag}` must be a JSON mapping, got {text!r} ({error}).") from error
    if not isinstance(options, dict):
        raise ValueError(f"`--{flag}` must be a JSON mapping, got {text!r}.")
    return options


def _yaml_flags(path: Path, names: list[str]) -> list[str]:
    if not path.is_file():
        _fail(f"the configuration file {str(path)!r} does not exist.")
    content = yaml.safe_load(path.read_text()) or {}
    flags: list[str] = []
    for key, value in content.items():
        if key not in names:
            _fail(f"{path.name} has the unknown key {key!r}.{_suggestion(key, names)}")
        if value is None:
            continue
        if isinstance(value, dict):
            value = json.dumps(value)
        values = [str(v) for v in value] if isinstance(value, list) else [str(value)]
        flags += [f"--{key}", *values]
    return flags


def _suggestion(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name.replace("-", "_"), names, n=1)
    return f" Did you mean `{close[0]}`?" if close else " `--help` lists what there is."


def _fail(reason: str) -> None:
    print(f"error: {reason}", file=sys.stderr)  # noqa: T201
    raise SystemExit(2)
