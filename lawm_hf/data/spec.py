# SPDX-License-Identifier: Apache-2.0
"""One string names a source, everywhere: `scheme:location[,key=value...]`.

    tabletop:SUITE[,episodes=N,domain=hand,actions=false,…]   the embedded tabletop, recorded once;
                                                              actions=false,state=true: no actions,
                                                              and yet the robot's state
    lerobot:DIR_OR_REPO[/folder][,revision=,action=,state=]   LeRobot v2.0, v2.1, v3.0
    lerobot:…,suite=libero_goal[,gripper=open_is_1]           the episodes of a LIBERO suite; a
                                                              gripper of 0 to 1 becomes LIBERO's
    ssv2:DIR[,split=validation]                               Something-Something v2 as handed out
    wds:DIR_OR_hf://REPO[/train-*.tar]                        tar shards of videos
    bridge:DIR[,frame_order=,actions=false]                   BridgeData V2, raw
    libero:DIR[,suite=libero_90,orientation=,observed=]       LIBERO's HDF5
    folder:DIR[,captions=metadata.csv]                        any videos
    NAME:…                                                    what `register_scheme` was told

`REPO` is `user/name` or `hf://datasets/user/name`, with an optional `@revision`. Options of every
scheme: `episodes=10:20`, `demonstrations=50` (the first, balanced over the tasks), `fraction=0.1`
with `subset_seed=0` (a random subset), `manifest=FILE` (names the subset), `views=front+wrist`,
`unlabelled=keep` (clips without an instruction are left out by default).
"""

import difflib
import inspect
import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..plugins import load_plugins
from ..writing.text import get_logger
from .dataset import WindowDataset, iterate_windows
from .files import LocalFiles, open_files
from .formats.bridge import BridgeSource
from .formats.lerobot import LeRobotSource
from .formats.libero import LiberoSource, suite_tasks
from .formats.shards import ShardSource
from .formats.videos import FolderSource, SSv2Source
from .source import Source, pick_camera
from .window import WindowSpec

logger = get_logger(__name__)

# Options of every scheme, unless it has one of that name itself.
_COMMON: dict[str, Callable[[str], Any]] = {
    "episodes": str,
    "demonstrations": int,
    "fraction": float,
    "subset_seed": int,
    "manifest": str,
    "views": str,
    "unlabelled": str,
}


def load(spec: str | Source, window: WindowSpec | None = None, *, streaming: bool = False) -> Any:
    """All windows of a source, each once.

    Args:
        spec: Which source.
        window: What a sample is; by default the views and the instruction.
        streaming: Return a `datasets.IterableDataset`, to filter, map and save as any other.

    Returns:
        A `WindowDataset` (by number), or the `datasets.IterableDataset` in table order.
    """
    source = open_source(spec) if isinstance(spec, str) else spec
    window = window or WindowSpec()
    if not streaming:
        return WindowDataset(source, window)
    from datasets import IterableDataset

    # A list among the arguments is what `datasets` splits over workers and processes.
    arguments = {"source": source, "window": window, "clips": source.clips.tolist()}
    return IterableDataset.from_generator(iterate_windows, gen_kwargs=arguments)


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
    if unlabelled not in ("drop", "keep"):
        raise ValueError(f"`unlabelled` is drop or keep, got {unlabelled!r} in {spec!r}.")
    chosen = {k: _parse_option(k, v) for k, v in common.items()}
    source = opener(location, **options)
    if views is not None:
        cameras = tuple(pick_camera(v, source.features.cameras) for v in views.split("+"))
        if len(set(cameras)) < len(cameras):
            raise ValueError(f"`views` must name each camera once, got {views!r}.")
        source.features = replace(source.features, cameras=cameras)
    if unlabelled == "drop":
        _drop_unlabelled(source)
    return source.select(**chosen)


def register_scheme(name: str, opener: Callable[..., Source]) -> None:
    """Make `name:location[,key=value...]` a spec everywhere; the last to take a name has it.

    Args:
        name: Of letters, digits, `_` and `-`.
        opener: `(location: str, **options: str) -> Source`; its named parameters are the options
            that exist, besides those of every scheme.

    Raises:
        ValueError: If the name cannot stand before a colon.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"A scheme is letters, digits, `_` and `-`, got {name!r}.")
    _SCHEMES[name] = opener


def parse_spec(spec: str) -> tuple[str, str, dict[str, str]]:
    """Scheme, location and options of a spec."""
    scheme, _, rest = spec.partition(":")
    if "," in scheme:
        scheme, _, rest = spec.partition(",")
        rest = f",{rest}"
    if scheme not in _SCHEMES:
        for plugin, error in load_plugins().items():
            logger.warning("The plug-in %s cannot be imported: %s", plugin, error)
    if scheme not in _SCHEMES:
        unknown = _unknown("scheme of a data source", scheme, list(_SCHEMES))
        path = Path(spec.partition(",")[0])
        if path.exists():
            kind = "lerobot" if (path / "meta/info.json").is_file() else "folder"
            unknown = f"A source is `scheme:location`, got {spec!r}. Did you mean `{kind}:{spec}`?"
        raise ValueError(f"{unknown} A package that registers its own is imported by `--import`.")
    parts = rest.split(",")
    location, options = parts[0].lstrip(), {}
    for part in parts[1:]:
        key, equals, value = part.partition("=")
        if not equals and options:
            raise ValueError(f"Options are `key=value`, got `{part}` in {spec!r}.")
        if not options and not (equals and key.strip().isidentifier()):
            location = f"{location},{part}"  # a comma in a path
            continue
        if key.strip() in options:
            raise ValueError(f"An option of a spec is given once, got `{key}` twice in {spec!r}.")
        options[key.strip()] = value
    # It would be the current folder, or the default suite: a shell's variable was not set.
    if not location.strip() and (scheme in _OF_FILES or spec.startswith(f"{scheme}:")):
        raise ValueError(f"A source is `{scheme}:LOCATION`, got {spec!r} without one. Name it.")
    return scheme, location, options


def _parse_option(key: str, text: str) -> Any:
    try:
        return _COMMON[key](text)
    except ValueError:
        kind = "whole number" if _COMMON[key] is int else "number"
        raise ValueError(f"`{key}` of a spec must be a {kind}, got {text!r}.") from None


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


def _lerobot(
    location: str,
    revision: str | None = None,
    action: str | None = None,
    state: str | None = None,
    suite: str | None = None,
    gripper: str | None = None,
) -> Source:
    files = open_files(location, revision)
    name = f"lerobot:{location}"
    source = LeRobotSource(files, name, action=action, state=state, gripper=gripper)
    if suite is not None:
        wanted = suite_tasks(suite)
        found = [source.task(int(clip)).lower() in wanted for clip in source.clips]
        if not any(found):
            raise ValueError(f"No instruction in {source.name} is one of {suite}.")
        source.clips = source.clips[found]
        source.check_libero_gripper()
    return source


def _bridge(location: str, frame_order: str = "numeric", actions: str = "true") -> Source:
    wanted = _parse_as(bool, "actions", actions)
    return BridgeSource(location, frame_order, wanted)  # type: ignore[arg-type]


def _libero(
    location: str,
    suite: str | None = None,
    orientation: str = "rotate180",
    observed: str | None = None,
) -> Source:
    return LiberoSource(location, suite, orientation, observed)  # type: ignore[arg-type]


def _ssv2(location: str, split: str = "train") -> Source:
    return SSv2Source(location, split)


def _shards(location: str) -> Source:
    return ShardSource(location)


def _folder(location: str, captions: str | None = None) -> Source:
    return FolderSource(location, captions)


def _tabletop(
    location: str,
    episodes: str | None = None,
    views: str | None = None,
    state: str = "",
    **options: str,
) -> Source:
    """The folder that the recorder leaves; here `episodes` and `views` say what to record."""
    from ..envs.tabletop.recorder import record_tabletop

    options = {**options, **({"num_episodes": episodes} if episodes else {})}
    options = {**options, **({"suite": location} if location else {})}
    options = {**options, **({"views": views} if views else {})}
    known = inspect.signature(record_tabletop).parameters
    for key in options:
        if key not in known:
            raise ValueError(_unknown("option of `tabletop:`", key, list(known)))
    values = {k: _parse_as(known[k].annotation, k, v) for k, v in options.items()}
    # The recorder writes actions and states together.
    hides_actions = state == "true" and values.get("actions") is False
    if hides_actions:
        values["actions"], options["state"] = True, state
    elif state not in ("", "true"):
        raise ValueError(f"`state` of `tabletop:` must be true or left out, got {state!r}.")
    if views:
        values["views"] = tuple(views.split("+"))
    folder = record_tabletop(**values)
    name = ",".join(["tabletop", *(f"{k}={v}" for k, v in sorted(options.items()))])
    return LeRobotSource(LocalFiles(folder), name, action="" if hides_actions else None)


def _parse_as(kind: Any, key: str, text: str) -> Any:
    """A value of this type, if it is one that can be told from others."""
    value = _parse_value(text)
    if kind is float and isinstance(value, str):
        with suppress(ValueError):
            value = float(text)
    told = {bool: "true or false", int: "a whole number", float: "a number"}
    is_number = isinstance(value, int | float) and math.isfinite(value)
    is_right = {bool: value in (0, 1), int: type(value) is int, float: is_number}
    if not is_right.get(kind, True):
        raise ValueError(f"`{key}` of a spec must be {told[kind]}, got {text!r}.")
    return bool(value) if kind is bool else value


def _parse_value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text)
    except ValueError:
        return tuple(text.split("+")) if "+" in text else text


_SCHEMES: dict[str, Callable[..., Source]] = {
    "tabletop": _tabletop,
    "lerobot": _lerobot,
    "ssv2": _ssv2,
    "wds": _shards,
    "bridge": _bridge,
    "libero": _libero,
    "folder": _folder,
}
_OF_FILES = frozenset(_SCHEMES) - {"tabletop"}
