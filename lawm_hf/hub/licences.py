# SPDX-License-Identifier: Apache-2.0
"""Whose data a checkpoint was trained on, by the specs of its sources, and what they demand."""

import itertools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

from ..models.text_lawm import model_and_revision
from ..writing.text import get_logger
from ..writing.yaml_file import read_yaml
from .text import plain

logger = get_logger(__name__)

ORIGIN_FILE = "source.json"  # of a converted or labelled set: what it was made of


@dataclass(frozen=True)
class Licence:
    """Of a dataset: a short name for `license_name`, what to know, and what may be published."""

    name: str
    text: str
    allows_frames: bool = False
    allows_public_weights: bool = True


TABLETOP = Licence(
    "apache-2.0",
    "recorded by this package's own simulation, Apache-2.0; no third-party data",
    allows_frames=True,
)
SSV2 = Licence(
    "ssv2-research-only",
    "Something-Something v2: research use only, not redistributable; do not use weights trained on "
    "it commercially, and do not publish the videos",
    allows_public_weights=False,
)
BRIDGE = Licence("cc-by-4.0", "BridgeData V2: CC BY 4.0; name its authors", allows_frames=True)
LIBERO = Licence(
    "cc-by-4.0",
    "LIBERO: demonstrations CC BY 4.0, simulator MIT; name its authors",
    allows_frames=True,
)
UNKNOWN = Licence("unstated", "licence unknown: **state it before you share this checkpoint**")

# Copies and conversions go by many names: nvidia/bridge_lerobot_v3, me/sthv2-wds, 20bn-…
_SSV2_NAMES = re.compile(
    r"ssv2|(?<![a-z])(ss[-_]?v[12]|s(ome|m)?th(ing)?[-_ ]?(s(ome|m)?th|v[12])|(20|twenty)bn)"
)
_BRIDGE_NAMES = re.compile(r"(?<![a-z])bridge[-_]?(v[12]|data|orig|oxe|rlds|lerobot)")
# Not those that others have extended.
_LIBERO_NAMES = re.compile(r"(?<![a-z])libero(?![a-z]|[-_]?(plus|pro|para|mem)(?![a-z]))")


def licence(spec: str) -> Licence:
    """Of the data that a source spec names; judged by name where the scheme does not tell.

    Labels follow what the policy that said them was trained on, where that forbids more.
    """
    labelled_by = (licence(seen) for seen in label_sources(spec))
    forbidding = (found for found in labelled_by if not found.allows_public_weights)
    return next(forbidding, None) or _licence_of_frames(spec)


def _licence_of_frames(spec: str) -> Licence:
    scheme = spec.partition(":")[0].partition(",")[0]
    known = {"tabletop": TABLETOP, "ssv2": SSV2, "bridge": BRIDGE, "libero": LIBERO}
    if scheme in known:
        return known[scheme]
    name = spec.lower()
    # Converted, or pretrained on: the first must not be missed.
    made_of = origin(spec)
    name += f" {made_of}".lower()
    for names, found in ((_SSV2_NAMES, SSV2), (_BRIDGE_NAMES, BRIDGE), (_LIBERO_NAMES, LIBERO)):
        if names.search(name):
            return found
    return known.get(made_of.partition(":")[0].partition(",")[0], UNKNOWN)


def licence_fields(licences: Iterable[Licence]) -> dict[str, Any]:
    """What a card says of several: the Hub's identifier where one says it all, the stricter one."""
    names = sorted({found.name for found in licences} - {"apache-2.0"})
    if len(names) < 2 and not {SSV2.name, UNKNOWN.name} & {*names}:
        return {"license": [*names, "apache-2.0"][0]}
    return {"license": "other", "license_name": "data-" + "-and-".join(names)}


def origin(spec: str, remote: bool = False) -> str:
    """Of a set that `lawm-hf convert` has written, the spec that it was made of; else nothing.

    Args:
        spec: Of any source.
        remote: Ask the Hub, too, if that is where it lies.
    """
    return str(_origin_file(spec, remote).get("source", ""))


def label_sources(spec: str, remote: bool = False) -> list[str]:
    """Of a set that `lawm-hf label` has written, what the policy that labelled it has seen.

    Arguments as of `origin`; of other sets nothing.
    """
    labels = _origin_file(spec, remote).get("labels")
    found = labels.get("sources") if isinstance(labels, dict) else None
    return [str(source) for source in found] if isinstance(found, list) else []


def _origin_file(spec: str, remote: bool) -> dict[str, Any]:
    location = spec.partition(",")[0].partition(":")[2]
    # Of shards the spec ends in a pattern.
    for folder in (Path(location).expanduser(), Path(location).expanduser().parent):
        if location and (folder / ORIGIN_FILE).is_file():
            return read_file(str(folder), ORIGIN_FILE)
    if remote and (repository := hub_id(spec.partition(":")[2])):
        return read_file(repository, ORIGIN_FILE, "dataset")
    return {}


def shareable(spec: str) -> str:
    """A source spec, or the address of a checkpoint, without the folders of this machine.

    Hub addresses stay as they are; of a local path only the last part does.
    """
    head, *options = spec.split(",")
    scheme, colon, location = head.partition(":")
    if not colon:
        scheme, location = "", head
    if scheme != "tabletop":
        location = _last_part(location)
    pairs = (option.partition("=") for option in options)
    options = [f"{k}{equals}{_last_part(v)}" for k, equals, v in pairs]
    return ",".join([f"{scheme}{colon}{location}", *options])


def parents(args: dict[str, Any]) -> list[str]:
    """Addresses of the checkpoints whose weights went into a run, by its arguments."""
    given = [args.get("pretrained"), args.get("vision_from"), _features_of(args)]
    types = [args.get(name) or "" for name in ("policy_type", "world_model_type")]
    return [str(p) for p in (*given, *(t for t in types if "/" in t or Path(t).is_dir())) if p]


def _features_of(args: dict[str, Any]) -> str | None:
    """Hub id or folder of the backbone that a world model in feature space holds."""
    try:
        options = json.loads(args.get("world_model_config") or "{}")
    except (TypeError, ValueError):  # a damaged record
        return None
    backbone = options.get("backbone") if isinstance(options, dict) else None
    return model_and_revision(str(backbone))[0] if backbone else None


def inherited_sources(args: dict[str, Any]) -> list[str] | None:
    """What all of them were trained on; `None` if that is not known of one."""
    found = [pretraining_sources(parent) for parent in parents(args)]
    return None if None in found else sorted({spec for specs in found for spec in specs or []})


def pretraining_sources(pretrained: str) -> list[str] | None:
    """What a checkpoint was trained on, from its `args.yaml`, in a folder or on the Hub.

    Returns:
        Shareable specs, those of a finetuned policy's own pretraining included; `None` if they
        cannot be known, for instance offline, or from a file that is damaged.
    """
    if Path(pretrained).name in ("policy", "world_model"):  # parts of a run
        pretrained = str(Path(pretrained).parent)
    args = read_file(pretrained, "args.yaml")
    own: Any = args.get("sources") or [args.get("source")]
    if not (isinstance(own, list) and all(isinstance(spec, str) for spec in own)):
        return None
    if parents(args):
        before = read_file(pretrained, "environment.json").get("pretraining_sources")
        if not before:
            return None
        own = [*own, *before]
    more = [*map(origin, own), *itertools.chain(*map(label_sources, own))]
    return list(dict.fromkeys(shareable(spec) for spec in [*own, *filter(None, more)]))


def read_file(folder: str, name: str, repo_type: str = "model") -> dict[str, Any]:
    """A small YAML or JSON file of a folder or `repository[@revision]`; empty if there is none."""
    path = Path(folder) / name
    try:
        if not Path(folder).exists():
            repository, revision = model_and_revision(folder)
            path = hf_hub_download(repository, name, repo_type=repo_type, revision=revision)
        return read_yaml(Path(path)) if Path(path).is_file() else {}  # JSON is YAML, too
    except (EntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        logger.warning("`%s` of %r cannot be read: %s", name, folder, plain(error))
        return {}


def hub_id(address: str) -> str:
    """`owner/name` of a dataset's spec or a checkpoint's address on the Hub; else nothing."""
    location = address.partition(",")[0].removeprefix("lerobot:")
    if Path(location).expanduser().exists():
        return ""
    name = r"\w[\w.-]*/[\w.-]+"
    found = re.match(rf"(?:\w+:)?hf://datasets/({name})|({name})(?=[@/]|$)", location)
    return found[1] or found[2] if found else ""


def _last_part(location: str) -> str:
    if location.startswith("hf://"):
        return location
    path = Path(location).expanduser()
    is_local = path.is_absolute() or location.startswith(".") or path.exists()
    return path.name if is_local else location
