# SPDX-License-Identifier: Apache-2.0
"""A command line: a YAML file gives values, flags override; both are checked alike."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from ..plugins import import_packages
from .fields import BOOLEANS, default_of, is_list, kind_of, may_be_none, read_value, suggestion
from .help import make_parser
from .screen import fail


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
    config = argv.pop(0) if argv and argv[0].endswith((".yaml", ".yml")) else None
    argv = _one_spelling(argv, fields)
    for name in (name for name, field in fields.items() if is_list(field)):
        if sum(token.partition("=")[0] == f"--{name}" for token in argv) > 1:
            fail(f"`--{name}` must be given once, with all its values after it: --{name} A B.")
    _refuse_empty(argv, fields)
    if config is not None:
        argv = _one_spelling(_yaml_flags(Path(config), fields), fields) + argv
    given, rest = make_parser(arguments_class, fields).parse_known_args(argv)
    if rest:
        late = " A configuration file comes first." if rest[0].endswith((".yaml", ".yml")) else ""
        fail(f"unknown argument {rest[0]!r}.{late or suggestion(rest[0].lstrip('-'), fields)}")
    try:
        values = {
            fields[name].name: read_value(name, fields[name], value)
            for name, value in vars(given).items()
            if name in fields and value is not None
        }
        import_packages(values.get("import_", []))
        return arguments_class(**values)
    except ValueError as error:
        fail(str(error))


def _one_spelling(argv: list[str], fields: dict[str, dataclasses.Field]) -> list[str]:
    """Flags with `_`, booleans with their value."""
    tokens: list[str] = []
    rest = list(argv)
    while rest:
        token = rest.pop(0)
        if token.startswith("--"):
            name, equals, value = token[2:].partition("=")
            name = name.replace("-", "_")
            if name in fields and kind_of(fields[name]) is bool and not equals:
                follows = rest and rest[0].lower() in BOOLEANS
                equals, value = "=", rest.pop(0) if follows else "true"
            token = f"--{name}{equals}{value}"
        tokens.append(token)
    return tokens


def _refuse_empty(argv: list[str], fields: dict[str, dataclasses.Field]) -> None:
    """What is typed is not empty, unlike values of a file: a variable was not set.

    Most empty texts mean something, such as training from scratch.
    """
    name = ""
    for token in argv:
        value = token
        if token.startswith("--"):
            name, equals, value = token[2:].partition("=")
            value = value if equals else name
        if value.strip():
            continue
        none = name in fields and default_of(fields[name]) == ""
        fail(
            f"{f'`{name}`' if name else 'an argument'} must not be empty, got {value!r}: is a "
            "variable of the shell not set? Set it, or leave the flag out"
            + (f"; `--{name} none` means none." if none else ".")
        )


def _yaml_flags(path: Path, fields: dict[str, dataclasses.Field]) -> list[str]:
    own = (
        Path(__file__).parent.parent / path
    )  # So `recipes/configs/x.yaml` is found after installation.
    path = path if path.is_file() or not own.is_file() else own
    if not path.is_file():
        fail(f"the configuration file {str(path)!r} does not exist.")
    from ..writing.yaml_file import read_yaml

    try:
        content = read_yaml(path, may_be_empty=True)
    except (ValueError, OSError) as error:
        fail(str(error))
    flags: list[str] = []
    seen: dict[str, Any] = {}
    for key, value in content.items():
        name = str(key).replace("-", "_").rstrip("_")
        if name not in fields:
            fail(f"{path.name} has the unknown key {key!r}.{suggestion(name, fields)}")
        if name in seen:
            fail(f"{path} must have each key once, got {seen[name]!r} and {key!r}. Leave one out.")
        seen[name] = key
        if (value is None and may_be_none(fields[name])) or value == [] == default_of(fields[name]):
            continue
        if value is None or (isinstance(value, list) and None in value):
            got = "null" if value is None else value
            fail(
                f"`{name}` of {path.name} must have a value, got {got}. Give one, or leave the "
                "line out for the default."
            )
        if value is False and "no" in (fields[name].metadata["choices"] or ()):
            value = "no"  # which YAML takes for false
        values = value if isinstance(value, list) else [value]
        if len(values) > 1 and not is_list(fields[name]):
            fail(f"`{name}` of {path.name} must be one value, got {value!r}.")
        texts = [json.dumps(v) if isinstance(v, dict) else str(v) for v in values]
        flags += [f"--{name}", *texts] if len(texts) != 1 else [f"--{name}={texts[0]}"]
    return flags
