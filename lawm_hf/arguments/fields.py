# SPDX-License-Identifier: Apache-2.0
"""The flags of a command: fields of a dataclass, each with its help and what values it allows."""

import dataclasses
import difflib
import json
import math
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..writing.executors import Executor

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
BOOLEANS = dict.fromkeys(_TRUE, True) | dict.fromkeys(_FALSE, False)
_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    Path: "a path",
}


def arg(
    default: Any,
    help: str,
    *,
    min: float | None = None,
    above: float | None = None,
    max: float | None = None,
    choices: Iterable[str] | None = None,
    positional: bool = False,
    is_json: bool = False,
    group: str = "",
) -> Any:
    """A field of a command's dataclass.

    Args:
        default: Its value if nobody gives another; lists are copied. `...`: must be given.
        help: One line for `--help`.
        min: Least value; of each number in a list.
        above: Number that values exceed.
        max: Greatest value.
        choices: All texts that are allowed.
        positional: Given by place, not by `--name`.
        is_json: A JSON mapping; in YAML files a mapping.
        group: Heading under which `--help` lists it: data, model, training, output and so on.
    """
    told: dict[str, Any] = {"help": help, "min": min, "above": above, "max": max}
    told |= {"choices": choices and tuple(choices), "is_json": is_json}
    told |= {"positional": positional, "group": group}
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=told)
    return dataclasses.field(default=default, metadata=told)


@dataclasses.dataclass
class CommandArgs:
    """What all commands share."""

    import_: list[str] = arg(
        [], "your packages that register policies, world models and so on", group="of every command"
    )


@dataclasses.dataclass
class TaskArgs(CommandArgs):
    """What the commands share whose work divides into tasks."""

    executor: str = arg(
        "local", "who does the tasks", choices=("local", "slurm", "ray"), group="tasks"
    )
    tasks: int = arg(
        1, "tasks at a time: processes here, jobs of Slurm, tasks of Ray", min=1, group="tasks"
    )
    executor_options: str = arg(
        "{}",
        "JSON: partition, time, mem_per_cpu_gb, ... of datatrove's executor",
        is_json=True,
        group="tasks",
    )

    def make_executor(self) -> Executor:
        """The executor that the flags name."""
        options = parse_json_options(self.executor_options, "executor_options")
        return Executor(self.executor, self.tasks, options)


def as_flags(args: Any) -> dict[str, Any]:
    """A command's arguments under the names of their flags, as YAML files have them."""
    return {name.rstrip("_"): value for name, value in dataclasses.asdict(args).items()}


def parse_json_options(text: str, flag: str) -> dict[str, Any]:
    """Read the JSON mapping of a flag such as `--policy_config '{"hidden_size": 256}'`.

    Raises:
        ValueError: If the text is not a JSON mapping.
    """
    try:
        options = json.loads(text or "{}", object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`--{flag}` must be a JSON mapping, got {text!r} ({error}).") from error
    if not isinstance(options, dict):
        raise ValueError(f"`--{flag}` must be a JSON mapping, got {text!r}.")
    return options


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} is there twice: leave one out")
        found[key] = value
    return found


def read_value(name: str, field: dataclasses.Field, text: str | list[str]) -> Any:
    """Convert what the command line has for a field, and check it.

    Raises:
        ValueError: If it is not what the field allows.
    """
    if isinstance(text, list):
        return [read_value(name, field, item) for item in text]
    kind, told = kind_of(field), field.metadata
    if text == "none" and default_of(field) == "":
        return ""
    is_path = kind is Path or name.endswith("_dir")
    rule = _KINDS[Path if is_path else kind]
    for word, bound in (("at least", "min"), ("above", "above"), ("at most", "max")):
        rule += f", {word} {told[bound]:.10g}" if told[bound] is not None else ""
    if told["choices"]:
        rule = f"one of {', '.join(told['choices'])}"
    try:
        if kind in (str, Path) and text.startswith("~/"):  # as no shell has: --name=~/x, YAML
            text = str(Path(text).expanduser())
        value = BOOLEANS[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        value = None
    if is_path and not text.strip():  # of a shell's variable that is not set: not this folder
        value = None
    if told["is_json"]:
        parse_json_options(text, name)
    if value is not None and (_allows(told, value) or value == default_of(field)):
        return value
    hint = suggestion(text, told["choices"]) if told["choices"] else ""
    raise ValueError(f"`{name}` must be {rule}, got {text!r}.{hint}")


def _allows(told: Any, value: Any) -> bool:
    if isinstance(value, str | Path):
        return not told["choices"] or value in told["choices"]
    return (
        math.isfinite(value)
        and (told["min"] is None or value >= told["min"])
        and (told["above"] is None or value > told["above"])
        and (told["max"] is None or value <= told["max"])
    )


def kind_of(field: dataclasses.Field) -> type:
    """The type of a value: `int` of `list[int]` and of `int | None`."""
    inner = [kind for kind in typing.get_args(field.type) if kind is not type(None)]
    return inner[0] if inner else field.type  # type: ignore[return-value]


def default_of(field: dataclasses.Field) -> Any:
    """Its value if nobody gives another; `...` if somebody must."""
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def may_be_none(field: dataclasses.Field) -> bool:
    """Whether `None` is a value: where nobody has given one."""
    return type(None) in typing.get_args(field.type)


def is_list(field: dataclasses.Field) -> bool:
    """Whether the flag takes several values."""
    return typing.get_origin(field.type) is list


def suggestion(name: str, known: Iterable[str]) -> str:
    """What may have been meant."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean `{close[0]}`?" if close else " `--help` lists what there is."
