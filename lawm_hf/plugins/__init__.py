# SPDX-License-Identifier: Apache-2.0
"""Packages of others that are installed, and bring policies, data formats and so on.

They name a module each as entry point of the group `lawm_hf`; what it registers is found by name.
"""

import importlib
import sys
from functools import cache
from importlib.metadata import entry_points


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
