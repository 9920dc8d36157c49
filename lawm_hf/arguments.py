# SPDX-License-Identifier: Apache-2.0
"""Command lines: one flat dataclass per command; a YAML file gives values, flags override.

Values are checked here, before models and data are opened, and whatever is wrong is one screen.
Nothing heavy is imported, so that `lawm-hf --help` is quick.
"""

import argparse
import dataclasses
import difflib
import json
import math
import re
import sys
import traceback
import typing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .plugins import import_packages
from .writing.executors import Executor
from .writing.text import printable_lines

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_BOOLEANS = dict.fromkeys(_TRUE, True) | dict.fromkeys(_FALSE, False)
_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    Path: "a path",
}
# Which extra of ours brings an optional package.
_EXTRAS = dict.fromkeys(("gymnasium", "mujoco", "matplotlib"), "sim") | {"tensorboard": "demo"}
_EXTRAS |= dict.fromkeys(("datatrove", "ray"), "cluster")
_EXTRAS |= dict.fromkeys(("lerobot", "draccus"), "lerobot")
_EXTRAS |= dict.fromkeys(("libero", "robosuite", "bddl", "OpenGL"), "libero")
# Words that our documents and configurations write where your own value belongs.
_PLACEHOLDERS = {
    "DIR": "the folder of your own copy",
    "COMMIT": "a commit of the repository (40 hexadecimal digits)",
    "CAMERA": "a camera's name, which `lawm-hf data inspect` lists",
}
_PLACEHOLDER = re.compile(rf"(?:^|[:@=])({'|'.join(_PLACEHOLDERS)})(?=[,/]|$)")


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
    """
    told = {"min": min, "above": above, "max": max, "choices": choices and tuple(choices)}
    metadata = {"help": help, "positional": positional, "is_json": is_json, **told}
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass
class CommandArgs:
    """What all commands share."""

    import_: list[str] = arg([], "your packages that register policies, world models and so on")


@dataclasses.dataclass
class TaskArgs(CommandArgs):
    """What the commands share whose work divides into tasks."""

    executor: str = arg("local", "who does the tasks", choices=("local", "slurm", "ray"))
    tasks: int = arg(1, "tasks at a time: processes here, jobs of Slurm, tasks of Ray", min=1)
    executor_options: str = arg(
        "{}", "JSON: partition, time, mem_per_cpu_gb, ... of datatrove's executor", is_json=True
    )

    def make_executor(self) -> Executor:
        """The executor that the flags name."""
        options = parse_json_options(self.executor_options, "executor_options")
        return Executor(self.executor, self.tasks, options)


def parse_args[T](arguments_class: type[T], argv: list[str] | None = None) -> T:
    """Parse `[config.yaml] [--flag value ...]` into a dataclass, and import what it names.

    `-` and `_` in flags are the same; booleans may leave out `true`. YAML values go the way of
    flags, so both are checked alike. A YAML mapping becomes a JSON string (options of a model
    configuration are written that way). A field `import_` is the flag `--import`.

    Args:
        arguments_class: The command's dataclass.
        argv: Arguments without the program name; the command line's by default.

    Raises:
        SystemExit: With code 2 and a one-line reason, if a flag or a YAML key is unknown, or a
            value is not what its field allows.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    fields = {f.name.rstrip("_"): f for f in dataclasses.fields(arguments_class)}  # type: ignore[arg-type]
    if argv and argv[0].endswith((".yaml", ".yml")):
        argv = _yaml_flags(Path(argv[0]), fields) + argv[1:]
    given, rest = _parser(arguments_class, fields).parse_known_args(_one_spelling(argv, fields))
    if rest:
        late = " A configuration file comes first." if rest[0].endswith((".yaml", ".yml")) else ""
        _fail(f"unknown argument {rest[0]!r}.{late or _suggestion(rest[0].lstrip('-'), fields)}")
    try:
        values = {
            fields[name].name: _read(name, fields[name], value)
            for name, value in vars(given).items()
            if value is not None
        }
        import_packages(values.get("import_", []))
        return arguments_class(**values)
    except ValueError as error:
        _fail(str(error))


def run_command[T](
    main: Callable[[T], Any], arguments_class: type[T], argv: list[str] | None = None
) -> None:
    """The command line of a recipe: parse, check, call `main`; see `one_screen`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    with one_screen(argv):
        args = parse_args(arguments_class, argv)
        check_placeholders(args)
        main(args)


@contextmanager
def one_screen(argv: list[str]) -> Iterator[None]:
    """End with `error: …` and code 2 instead of a traceback, unless `argv` has `--traceback`.

    That flag is taken out of `argv`. An error that nobody has foreseen says where it came from.
    """
    show = "--traceback" in argv
    argv[:] = [token for token in argv if token != "--traceback"]
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        raise SystemExit(130) from None
    except Exception as error:
        if show:
            raise
        text = missing_package(error) or str(error)[:2000].strip()
        if not isinstance(error, ValueError | OSError | ImportError) or not text:
            frames = traceback.extract_tb(error.__traceback__)[-3:]
            places = [f"{Path(f.filename).name}:{f.lineno} in {f.name}" for f in frames]
            text = f"{type(error).__name__}: {text} ({' > '.join(places)})"
        _fail(f"{text}\n(--traceback shows where this comes from.)")


def missing_package(error: Exception) -> str:
    """What to install, if an optional package is not there; else nothing."""
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ImportError) or package not in _EXTRAS:
        return ""
    return (
        f"This needs the package `{package}`, which is not installed ({error}). "
        f"Install it: pip install 'lawm_hf[{_EXTRAS[package]}]', or in a clone "
        f"uv pip install -e '.[{_EXTRAS[package]}]'"
    )


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


def check_placeholders(args: Any) -> None:
    """Refuse sources and folders that still hold a word in place of the user's own value.

    Raises:
        ValueError: If one does, with what belongs there.
    """
    for name, value in as_flags(args).items():
        for text in value if isinstance(value, list) else [value]:
            # Plans are JSON: their dry run lists what is missing.
            found = _PLACEHOLDER.search(str(text)) if not str(text).startswith("{") else None
            if found:
                raise ValueError(
                    f"`--{name}` must not hold the word {found[1]}, which stands for "
                    f"{_PLACEHOLDERS[found[1]]}, got {text!r}. Replace it with yours."
                )


def _read(name: str, field: dataclasses.Field, text: str | list[str]) -> Any:
    """Convert what the command line has for a field, and check it."""
    if isinstance(text, list):
        return [_read(name, field, item) for item in text]
    kind, told = _kind(field), field.metadata
    rule = _KINDS[kind]
    for word, bound in (("at least", "min"), ("above", "above"), ("at most", "max")):
        rule += f", {word} {told[bound]:g}" if told[bound] is not None else ""
    if told["choices"]:
        rule = f"one of {', '.join(told['choices'])}"
    try:
        value = _BOOLEANS[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        value = None
    if told["is_json"]:
        parse_json_options(text, name)
    if value is not None and (_allows(told, value) or value == _default(field)):
        return value
    hint = _suggestion(text, told["choices"]) if told["choices"] else ""
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


def _kind(field: dataclasses.Field) -> type:
    """The type of a value: `int` of `list[int]` and of `int | None`."""
    inner = [kind for kind in typing.get_args(field.type) if kind is not type(None)]
    return inner[0] if inner else field.type  # type: ignore[return-value]


def _default(field: dataclasses.Field) -> Any:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def _is_list(field: dataclasses.Field) -> bool:
    return typing.get_origin(field.type) is list


class _Parser(argparse.ArgumentParser):
    """Its errors are ours: one line, not the usage of fifty flags."""

    def error(self, message: str) -> typing.NoReturn:
        _fail(f"{message}. `--help` lists what there is.")


def _parser(arguments_class: type, fields: dict[str, dataclasses.Field]) -> _Parser:
    parser = _Parser(
        description=arguments_class.__doc__,
        epilog="A YAML file may come first. --traceback: show where an error comes from.",
        allow_abbrev=False,
    )
    for name, field in fields.items():
        told, default = field.metadata, _default(field)
        more = f": {', '.join(told['choices'])}" if told["choices"] else ""
        if default is not ...:
            more += f" (default: {' '.join(map(str, default)) if _is_list(field) else default})"
        options: dict[str, Any] = {"help": f"{told['help']}{more}".replace("%", "%%")}
        if not told["positional"]:
            name = f"--{name}"
            options["required"] = default is ...
        parser.add_argument(name, nargs="+" if _is_list(field) else None, **options)
    return parser


def _one_spelling(argv: list[str], fields: dict[str, dataclasses.Field]) -> list[str]:
    """Flags with `_`, booleans with their value."""
    tokens: list[str] = []
    rest = list(argv)
    while rest:
        token = rest.pop(0)
        if token.startswith("--"):
            name, equals, value = token[2:].partition("=")
            name = name.replace("-", "_")
            if name in fields and _kind(fields[name]) is bool and not equals:
                follows = rest and rest[0].lower() in _BOOLEANS
                equals, value = "=", rest.pop(0) if follows else "true"
            token = f"--{name}{equals}{value}"
        tokens.append(token)
    return tokens


def _yaml_flags(path: Path, fields: dict[str, dataclasses.Field]) -> list[str]:
    own = Path(__file__).parent / path  # So `recipes/configs/x.yaml` is found after installation.
    path = path if path.is_file() or not own.is_file() else own
    if not path.is_file():
        _fail(f"the configuration file {str(path)!r} does not exist.")
    from .writing.yaml_file import read_yaml

    try:
        content = read_yaml(path, may_be_empty=True)
    except (ValueError, OSError) as error:
        _fail(str(error))
    flags: list[str] = []
    seen: dict[str, Any] = {}
    for key, value in content.items():
        name = str(key).replace("-", "_").rstrip("_")
        if name not in fields:
            _fail(f"{path.name} has the unknown key {key!r}.{_suggestion(name, fields)}")
        if name in seen:
            _fail(f"{path} must have each key once, got {seen[name]!r} and {key!r}. Leave one out.")
        seen[name] = key
        if value is None or value == [] == _default(fields[name]):
            continue
        values = value if isinstance(value, list) else [value]
        if len(values) > 1 and not _is_list(fields[name]):
            _fail(f"`{name}` of {path.name} must be one value, got {value!r}.")
        texts = [json.dumps(v) if isinstance(v, dict) else str(v) for v in values]
        flags += [f"--{name}", *texts] if len(texts) != 1 else [f"--{name}={texts[0]}"]
    return flags


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean `{close[0]}`?" if close else " `--help` lists what there is."


def _fail(reason: str) -> typing.NoReturn:
    # File names and instructions are others' words: they must not steer a terminal.
    print(f"error: {printable_lines(reason)}", file=sys.stderr)  # noqa: T201
    raise SystemExit(2)
