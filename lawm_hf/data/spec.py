# SPDX-License-Identifier: Apache-2.0
"""One string names a source, everywhere: `scheme:location[,key=value...]`.

    lerobot:DIR                         a LeRobot data set v2.0, v2.1 or v3.0
    tabletop:SUITE[,num_episodes=N...]  the embedded tabletop, recorded when first used

Options of every scheme: `episodes=10:20`, `demonstrations=50` (the first, balanced over the tasks),
`fraction=0.1` with `subset_seed=0` (a random subset), `views=front+wrist`, `unlabelled=keep`.
"""

import difflib
import inspect
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .files import LocalFiles
from .lerobot import LeRobotSource
from .source import Source, pick_camera
from .window import WindowDataset, WindowSpec

logger = logging.getLogger(__name__)

# Options of every scheme, unless it has one of that name itself.
_COMMON: dict[str, Callable[[str], Any]] = {
    "episodes": str,
    "demonstrations": int,
    "fraction": float,
    "subset_seed": int,
    "views": str,
    "unlabelled": str,
}


def load(spec: str | Source, window: WindowSpec | None = None) -> WindowDataset:
    """All windows of a source, by number.

    Args:
        spec: Which source.
        window: What a sample is; by default the views and the instruction.
    """
    source = open_source(spec) if isinstance(spec, str) else spec
    return WindowDataset(source, window or WindowSpec())


def open_source(spec: str) -> Source:
    """Open what a spec names.

    Raises:
        ValueError: If the scheme or an option is unknown, with a suggestion.
        FileNotFoundError: If nothing is there, saying what was looked for and where.
    """
    scheme, location, options = parse_spec(spec)
    opener = _SCHEMES[scheme]
    accepted = inspect.signature(opener).parameters
    own = [p for p in accepted if p not in ("location", "options")]
    common = {k: options.pop(k) for k in list(options) if k in _COMMON and k not in own}
    for key in options:
        if key not in own and "options" not in accepted:
            raise ValueError(_unknown(f"option of `{scheme}:`", key, [*own, *_COMMON]))
    views, unlabelled = common.pop("views", None), common.pop("unlabelled", "drop")
    source = opener(location, **options)
    if views is not None:
        cameras = tuple(pick_camera(v, source.features.cameras) for v in views.split("+"))
        source.features = replace(source.features, cameras=cameras)
    if unlabelled == "drop":
        _drop_unlabelled(source)
    return source.select(**{k: _COMMON[k](v) for k, v in common.items()})


def parse_spec(spec: str) -> tuple[str, str, dict[str, str]]:
    """Scheme, location and options of a spec."""
    scheme, _, rest = spec.partition(":")
    if "," in scheme:
        scheme, _, rest = spec.partition(",")
        rest = f",{rest}"
    if scheme not in _SCHEMES:
        raise ValueError(_unknown("scheme of a data source", scheme, list(_SCHEMES)))
    parts = rest.split(",")
    location, options = parts[0], {}
    for part in parts[1:]:
        key, equals, value = part.partition("=")
        if not equals and options:
            raise ValueError(f"Options are `key=value`, got `{part}` in {spec!r}.")
        if not equals:
            location = f"{location},{part}"  # a comma in a path
            continue
        options[key.strip()] = value
    return scheme, location, options


def _unknown(what: str, got: str, known: list[str]) -> str:
    close = difflib.get_close_matches(got, known, n=1, cutoff=0.5)
    hint = f"Did you mean `{close[0]}`?" if close else f"Known: {', '.join(known)}."
    return f"No {what} `{got}`. {hint}"


def _drop_unlabelled(source: Source) -> None:
    labelled = [bool(source.task(int(clip))) for clip in source.clips]
    count = len(labelled) - sum(labelled)
    if count == len(labelled):
        raise ValueError(
            f"None of the {count} clips of {source.name} has an instruction. Pass "
            "`unlabelled=keep` to use them."
        )
    if count:
        logger.warning("Left out %d clips of %s without an instruction.", count, source.name)
        source.clips = source.clips[labelled]


def _lerobot(location: str, action: str | None = None, state: str | None = None) -> Source:
    return LeRobotSource(LocalFiles(location), f"lerobot:{location}", action=action, state=state)


def _tabletop(location: str, episodes: str | None = None, **options: str) -> Source:
    """The folder that the recorder leaves; here `episodes=4000` says how many to record."""
    from lawm_hf.envs.recorder import record_tabletop

    options = {**options, **({"num_episodes": episodes} if episodes else {})}
    options = {**options, **({"suite": location} if location else {})}
    known = inspect.signature(record_tabletop).parameters
    for key in options:
        if key not in known:
            raise ValueError(_unknown("option of `tabletop:`", key, list(known)))
    folder = record_tabletop(**{k: _parse_value(v) for k, v in options.items()})
    name = ",".join(["tabletop", *(f"{k}={v}" for k, v in sorted(options.items()))])
    return LeRobotSource(LocalFiles(folder), name)


def _parse_value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text)
    except ValueError:
        return tuple(text.split("+")) if "+" in text else text


_SCHEMES: dict[str, Callable[..., Source]] = {"lerobot": _lerobot, "tabletop": _tabletop}
