# SPDX-License-Identifier: Apache-2.0
"""Whose data a checkpoint was trained on, by the specs of its sources, and what they demand."""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError


@dataclass(frozen=True)
class Licence:
    """Of a data set: a short name for `license_name`, and what to know."""

    name: str
    text: str


TABLETOP = Licence(
    "apache-2.0", "recorded by this package's own simulation, Apache-2.0; no third-party data"
)
SSV2 = Licence(
    "ssv2-research-only",
    "Something-Something v2: research use only, not redistributable; do not use weights trained on "
    "it commercially, and do not publish the videos",
)
BRIDGE = Licence("cc-by-4.0", "BridgeData V2: CC BY 4.0; name its authors")
LIBERO = Licence("cc-by-4.0", "LIBERO: demonstrations CC BY 4.0, simulator MIT; name its authors")
UNKNOWN = Licence("unstated", "licence unknown: **state it before you share this checkpoint**")


def licence(spec: str) -> Licence:
    """Of the data that a source spec names; judged by name where the scheme does not tell."""
    scheme = spec.partition(":")[0].partition(",")[0]
    known = {"tabletop": TABLETOP, "ssv2": SSV2, "bridge": BRIDGE, "libero": LIBERO}
    if scheme in known:
        return known[scheme]
    name = spec.lower()
    # Converted, or pretrained on: this one must not be missed.
    if re.search("ssv2|something.?something", name):
        return SSV2
    if "nvidia/bridgedata2_lerobot" in name:
        return BRIDGE
    if "lerobot:lerobot/libero" in name or "g05-libero-dataset" in name:
        return LIBERO
    return UNKNOWN


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


def pretraining_sources(pretrained: str) -> list[str] | None:
    """What a pretraining run was trained on, from its `args.yaml`, in a folder or on the Hub.

    Returns:
        Shareable specs; `None` if that cannot be known, for instance offline.
    """
    path = Path(pretrained) / "args.yaml"
    if not Path(pretrained).exists():
        try:
            path = Path(hf_hub_download(pretrained, "args.yaml"))
        except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError):
            return None
    if not path.is_file():
        return None
    return [shareable(spec) for spec in yaml.safe_load(path.read_text()).get("sources", [])]


def _last_part(location: str) -> str:
    if location.startswith("hf://"):
        return location
    path = Path(location).expanduser()
    is_local = path.is_absolute() or location.startswith(".") or path.exists()
    return path.name if is_local else location
