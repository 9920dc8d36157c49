# SPDX-License-Identifier: Apache-2.0
"""What a plan may say: its mappings are checked, its blanks filled, its grids multiplied out."""

import difflib
import itertools
import re
from collections.abc import Iterable
from typing import Any

# What a plan leaves open in a flag: `{seed}`, `{demos:03d}`.
_BLANK = r"\{(\w+)(?::([^{}]*))?\}"
# Flags that the plan itself gives to each stage.
_OF_THE_PLAN = {"seed", "output_dir", "resume", "overwrite", "policy"}


def check_known(what: str, got: Iterable[str], known: set[str]) -> None:
    """Refuse a name that means nothing.

    Raises:
        ValueError: With the closest one that does.
    """
    for name in got:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            known_ones = f"Known: {', '.join(sorted(known))}."
            hint = f"Did you mean `{close[0]}`?" if close else known_ones
            raise ValueError(f"{what} has the unknown key `{name}`. {hint}")


def check_flags(what: str, flags: Any) -> None:
    """Refuse what is no mapping of flags, or has one that the plan gives.

    Raises:
        ValueError: Saying which.
    """
    if not isinstance(flags, dict):
        raise ValueError(f"{what} of a plan must be a mapping, got {flags!r}. None is `{{}}`.")
    for name in sorted(flags.keys() & _OF_THE_PLAN):
        raise ValueError(
            f"{what} of a plan must leave `{name}` to the plan, got {flags[name]!r}. Take it out; "
            "seeds and folders are `seeds` and `stages_dir`."
        )


def check_parts(what: str, options: Any, known: set[str]) -> None:
    """Refuse a policy or benchmark with a part that means nothing, or is no mapping of flags."""
    check_flags(what, options)
    check_known(what, options, known)
    for part, flags in options.items():
        if (part, flags) != ("evaluate", False):  # Somebody else evaluates: a robot.
            check_flags(f"`{part}` of {what}", flags)


def check_variant(what: str, flags: Any, demonstrations: list[int]) -> None:
    """Refuse a way of pretraining whose parts are of the wrong form."""
    check_flags(what, flags)
    check_flags(f"`finetune` of {what}", flags.get("finetune", {}))
    own = flags.get("demonstrations", demonstrations)
    if not isinstance(own, list) or not set(own) <= set(demonstrations):
        raise ValueError(
            f"`demonstrations` of {what} must be a list of some of the plan's, {demonstrations}, "
            f"got {own!r}."
        )
    check_flags(f"`grid` of {what}", flags.get("grid", {}))
    for name, values in flags.get("grid", {}).items():
        if not isinstance(values, list | dict) or not values:
            raise ValueError(
                f"`{name}` in the grid of {what} must be a list of values, or a mapping of names "
                f"to values, got {values!r}."
            )


def expand_grids(pretraining: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Variants with their `grid` multiplied out, named `"<variant>, <value>, ..."`."""
    variants: dict[str, dict[str, Any]] = {}
    for name, flags in pretraining.items():
        axes = flags.get("grid", {})
        rest = {k: v for k, v in flags.items() if k != "grid"}
        named = [
            list(values.items()) if isinstance(values, dict) else [(str(v), v) for v in values]
            for values in axes.values()
        ]
        for chosen in itertools.product(*named):
            title = ", ".join([name, *(value_name for value_name, _ in chosen)])
            if title in variants:
                raise ValueError(f"Each pretraining of a plan needs a name, got {title!r} twice.")
            variants[title] = rest | dict(zip(axes, (value for _, value in chosen), strict=True))
    return variants


def fill(flags: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Flags with values for `{name}` and `{name:format}`; other braces, as of JSON, stay."""

    def value(found: re.Match[str]) -> str:
        check_known(f"{found.string!r} of a plan", [found[1]], {*values})
        return format(values[found[1]], found[2] or "")

    def filled(flag: Any) -> Any:
        if isinstance(flag, list):
            return [filled(each) for each in flag]
        return re.sub(_BLANK, value, flag) if isinstance(flag, str) else flag

    return {key: filled(flag) for key, flag in flags.items()}
