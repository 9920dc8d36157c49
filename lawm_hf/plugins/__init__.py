# SPDX-License-Identifier: Apache-2.0
"""Packages of others that bring policies, data formats and so on: what they register has a name.

Those that are installed name a module as entry point of the group `lawm_hf`; others are named by
`--import`, and by the record of a run that was given it.
"""

import importlib
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path


def load_plugins() -> dict[str, str]:
    """Import what installed distributions name as entry points of the group `lawm_hf`.

    Returns:
        Those that could not be imported, and why: one that lacks an optional library is no error.
    """
    return _load(tuple(sys.path))


@cache
def _load(places: tuple[str, ...]) -> dict[str, str]:
    """Once for each list of `places`, in which distributions are looked for."""
    failed = {}
    for entry in entry_points(group="lawm_hf"):
        try:
            importlib.import_module(entry.module)
        except Exception as error:
            failed[entry.value] = f"{type(error).__name__}: {error}"
    return failed


def import_packages(names: Iterable[str]) -> None:
    """Import packages by name, looked up in the current folder too.

    Raises:
        ValueError: If one cannot be imported.
    """
    for name in names:
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ValueError(
                f"`--import` takes the names of packages or modules, but {name!r} cannot be "
                f"imported: {type(error).__name__}: {error}. Install it, or start in the folder "
                "that holds it."
            ) from error


def import_recorded(folder: str | Path) -> None:
    """Import what a run has imported, by its `args.yaml`; but nothing that lies in its folder.

    Raises:
        ValueError: If a package cannot be imported, or came with the run: weights are no reason to
            trust code.
    """
    from ..writing.yaml_file import read_yaml

    path = Path(folder, "args.yaml")
    names = read_yaml(path).get("import") or [] if path.is_file() else []
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError(f"`import` of {path} must be a list of packages, got {names!r}. Fix it.")
    names = [name for name in names if name not in sys.modules]
    for name in names:
        for place in [Path.cwd(), *map(Path, sys.path)]:
            found = place.joinpath(*name.split(".")).resolve()
            if found.is_relative_to(path.parent.resolve()) and (
                found.exists() or found.with_suffix(".py").exists()
            ):
                raise ValueError(
                    f"{path} must not name code of its own folder to import, got {name!r}. If you "
                    f"trust {found}, pass --import {name}."
                )
    import_packages(names)
