# SPDX-License-Identifier: Apache-2.0
"""`meta/info.json` of a LeRobot set, checked: nothing in it is trusted."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import LocalFiles, inside

CHUNK_NAMES = ["step", "dimension"]  # of a feature `(N, A)`; others of two axes are one action
_NUMBERS = ("float", "double", "int", "uint", "bool")
_LARGEST_JSON = 1 << 29  # bytes
_FIELD = r"\{(?:chunk_index|file_index|video_key|episode_chunk|episode_index)(?::0?\d?\d?d?)?\}"
_MASK = re.compile(r"(.+)[._](?:is_)?(?:available|valid|present|mask)")
_DEPTH = re.compile(r"(?:^|[._/\-])depth(?:$|[._/\-\d])", re.IGNORECASE)


@dataclass
class Info:
    """`meta/info.json`, checked.

    Attributes:
        version: `v2.0`, `v2.1` or `v3.0`.
        fps: Frames per second.
        features: The features by key.
        chunks_size: Episodes in a chunk of v2.
        data_path: Template of the paths of the rows.
        video_path: Template of the paths of the videos.
        total_episodes: How many there should be; 0 if it does not tell.
    """

    version: str
    fps: float
    features: dict[str, Any]
    chunks_size: int
    data_path: str
    video_path: str
    total_episodes: int

    def cameras(self) -> tuple[str, ...]:
        """Keys of the colour pictures; a depth map is no view, flagged as one or not."""
        pictures = {k: f for k, f in self.features.items() if f["dtype"] in ("image", "video")}
        return tuple(k for k, f in pictures.items() if not _is_depth(k, f))

    def is_video(self, camera: str) -> bool:
        """Whether the camera's pictures lie in videos, not in the rows."""
        return self.features[camera]["dtype"] == "video"

    def size(self, keys: tuple[str, ...]) -> int:
        """Numbers in these features together."""
        return sum(math.prod(int(n) for n in self.features[k]["shape"]) for k in keys)

    def chunk_size(self, keys: tuple[str, ...]) -> int | None:
        """Steps of the one feature that holds a chunk, known by `names` that are `CHUNK_NAMES`."""
        is_chunk = len(keys) == 1 and self.features[keys[0]].get("names") == CHUNK_NAMES
        shape = self.features[keys[0]]["shape"] if is_chunk else ()
        return int(shape[0]) if len(shape) == 2 else None

    def mask_of(self, camera: str) -> str | None:
        """The feature that says where a padded camera is real: `<camera>_available` or the like."""
        short = camera.rsplit(".", 1)[-1]
        for key, feature in self.features.items():
            number = feature["dtype"].startswith(("bool", "int", "uint", "float"))
            found = _MASK.fullmatch(key) if number and self.size((key,)) == 1 else None
            if found and (found[1] == camera or found[1].rsplit(".", 1)[-1] == short):
                return key
        return None


def read_info(files: LocalFiles, name: str) -> Info:
    """Read and check `meta/info.json`.

    Raises:
        ValueError: If it is not what LeRobot v2.0, v2.1 or v3.0 writes.
    """
    try:
        info = dict(json.loads(small_file(files, "meta/info.json").read_bytes()))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"meta/info.json of {name} must hold a JSON object: {error}") from error
    version = f"v{str(info.get('codebase_version', '?')).removeprefix('v')}"
    if version not in ("v2.0", "v2.1", "v3.0"):
        raise ValueError(f"{name} is of version {version}; v2.0, v2.1 and v3.0 are read.")
    try:
        found = Info(
            version,
            float(info["fps"]),
            {str(k): _feature(f) for k, f in info["features"].items()},
            int(info.get("chunks_size") or 1000),
            str(info["data_path"]),
            str(info.get("video_path") or ""),
            int(info.get("total_episodes") or 0),
        )
        sizes = [found.size((k,)) for k, f in found.features.items() if f.get("shape")]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"meta/info.json of {name} is incomplete: {error!r}.") from error
    if not (0 < found.fps < 1e5 and found.chunks_size > 0 and min([0, *sizes]) >= 0):
        raise ValueError(
            f"meta/info.json of {name} must state positive numbers, got fps {found.fps}, "
            f"chunks_size {found.chunks_size} and sizes {sizes}."
        )
    for template in (found.data_path, found.video_path):
        # `format` would also follow attributes and pad to gigabytes.
        if re.fullmatch(rf"(?:[^{{}}]|{_FIELD})*", template[:1000]) is None or len(template) > 1000:
            raise ValueError(f"meta/info.json of {name} has no valid path: {template[:200]!r}.")
        inside(files.root, template)  # `fetch` checks each file; this refuses the set at once
    return found


def _feature(feature: dict[str, Any]) -> dict[str, Any]:
    """A feature whose shape is a list: some state none, or a bare number."""
    shape = feature.get("shape")
    shape = [shape] if isinstance(shape, int | float) else list(shape or ())
    return {**feature, "dtype": str(feature["dtype"]), "shape": shape}


def _is_depth(key: str, feature: dict[str, Any]) -> bool:
    info = feature.get("info") or feature.get("video_info") or {}
    said = {k.removeprefix("video."): v for k, v in info.items()}
    shape = [int(n) for n in feature.get("shape") or ()]
    one_channel = len(shape) == 2 or (len(shape) == 3 and 1 in (shape[0], shape[-1]))
    grey = str(said.get("pix_fmt", "")).startswith("gray") or said.get("channels") == 1
    return bool(said.get("is_depth_map") or grey or one_channel or _DEPTH.search(key))


def small_file(files: LocalFiles, path: str) -> Path:
    """A file of `meta/`, of a size that is read whole."""
    found = files.fetch(path)
    if found.stat().st_size > _LARGEST_JSON:
        raise ValueError(f"{path} must have at most {_LARGEST_JSON} bytes, got more.")
    return found


def low_dim_keys(
    stored: dict[str, Any], asked: str | None, usual: Sequence[str]
) -> tuple[str, ...]:
    """The features of the action or the state: those asked for, or the usual one, or its parts."""
    if asked is not None:
        keys = tuple(asked.split("+")) if asked else ()
        for key in keys:
            if key not in stored:
                raise ValueError(f"No feature `{key}`; there are {', '.join(stored)}.")
            if not stored[key]["dtype"].startswith(_NUMBERS):
                kind = stored[key]["dtype"]
                raise ValueError(f"`{key}` must be a feature of numbers, got one of {kind}.")
        return keys
    for key in usual:
        if key in stored:
            return (key,)
    numeric = (k for k, f in stored.items() if f["dtype"].startswith(_NUMBERS))
    return tuple(k for k in numeric if k.startswith(usual[0] + ".") and not _MASK.fullmatch(k))
