# SPDX-License-Identifier: Apache-2.0
"""`meta/` of a LeRobot set, in the dialects that are found on the Hub.

Nothing in it is trusted: paths, numbers and texts are checked.
"""

import json
import math
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import LocalFiles, inside
from ..source import BadClipError

CHUNK_NAMES = ["step", "dimension"]  # of a feature `(N, A)`; others of two axes are one action
_LONGEST_EPISODE = 10_000_000  # frames; a larger number is an attack on the memory
_LARGEST_JSON = 1 << 29  # bytes
_MOST_VALUES = 500_000_000  # in the columns read from one file
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
    """

    version: str
    fps: float
    features: dict[str, Any]
    chunks_size: int
    data_path: str
    video_path: str

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
        info = dict(json.loads(_small(files, "meta/info.json").read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"meta/info.json of {name} must hold a JSON object: {error}") from error
    version = f"v{str(info.get('codebase_version', '?')).removeprefix('v')}"
    if version not in ("v2.0", "v2.1", "v3.0"):
        raise ValueError(f"{name} is of version {version}; v2.0, v2.1 and v3.0 are read.")
    try:
        found = Info(
            version,
            float(info["fps"]),
            {str(k): {**f, "dtype": str(f["dtype"])} for k, f in info["features"].items()},
            int(info.get("chunks_size") or 1000),
            str(info["data_path"]),
            str(info.get("video_path") or ""),
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


def _is_depth(key: str, feature: dict[str, Any]) -> bool:
    info = feature.get("info") or feature.get("video_info") or {}
    said = {k.removeprefix("video."): v for k, v in info.items()}
    shape = [int(n) for n in feature.get("shape") or ()]
    one_channel = len(shape) == 2 or (len(shape) == 3 and 1 in (shape[0], shape[-1]))
    grey = str(said.get("pix_fmt", "")).startswith("gray") or said.get("channels") == 1
    return bool(said.get("is_depth_map") or grey or one_channel or _DEPTH.search(key))


@dataclass
class Episodes:
    """The table of episodes, in the order of their numbers.

    Attributes:
        ids: Number of each episode.
        lengths: Frames of each.
        tasks: What `meta` says of each one's instructions; empty if it does not tell.
        names: Instruction by `task_index`.
        data_paths: Where each one's rows should lie.
        videos: For each camera the path of each episode's video (empty if it has none), and the
            second at which the episode begins in it.
    """

    ids: np.ndarray
    lengths: np.ndarray
    tasks: list[tuple[str, ...]]
    names: dict[int, str]
    data_paths: list[str]
    videos: dict[str, tuple[list[str], np.ndarray]]


def read_episodes(files: LocalFiles, info: Info, name: str) -> Episodes:
    """Read the table of episodes and that of the tasks.

    Raises:
        ValueError: If there is no episode, a number is impossible, or a file damaged.
    """
    try:
        v3 = info.version == "v3.0"
        rows = _rows_v3(files) if v3 else _json_lines(files, "meta/episodes.jsonl")
        return _episodes(rows, _task_names(files, info), info, name)
    except BadClipError as error:
        raise ValueError(f"{name}: {error}") from error
    except (TypeError, ValueError, OverflowError, KeyError, AttributeError) as error:
        if "meta/" in str(error) or name in str(error):  # It says what is wrong.
            raise
        raise ValueError(
            f"meta/ of {name} must hold what LeRobot writes, got {error!r}."
        ) from error


def _episodes(rows: list[dict[str, Any]], names: dict[int, str], info: Info, name: str) -> Episodes:
    """The table, out of its rows."""
    if not rows:
        raise ValueError(f"{name} has no episodes in meta/: record some, or name another folder.")
    for column in ("episode_index", "length"):
        if any(row.get(column) is None for row in rows):
            raise ValueError(f"`{column}` is missing in meta/episodes of {name}.")
    rows.sort(key=lambda row: row["episode_index"])
    lengths = np.array([int(row["length"]) for row in rows], np.int64)
    if not 0 <= lengths.min() <= lengths.max() <= _LONGEST_EPISODE:
        raise ValueError(
            f"An episode of {name} must have 0 to {_LONGEST_EPISODE} frames, got "
            f"{lengths.min()} to {lengths.max()}."
        )

    def path(row: dict[str, Any], camera: str | None = None) -> str:
        episode, prefix = int(row["episode_index"]), f"videos/{camera}/" if camera else "data/"
        place = {k: row.get(f"{prefix}{k}") for k in ("chunk_index", "file_index")}
        if camera and info.version == "v3.0" and None in place.values():
            return ""
        return (info.video_path if camera else info.data_path).format(
            video_key=camera,
            episode_index=episode,
            episode_chunk=episode // info.chunks_size,
            **{k: int(v or 0) for k, v in place.items()},
        )

    videos = {
        c: (
            [path(row, c) for row in rows],
            np.array([row.get(f"videos/{c}/from_timestamp") or 0 for row in rows], float),
        )
        for c in info.cameras()
        if info.is_video(c)
    }
    return Episodes(
        ids=np.array([int(row["episode_index"]) for row in rows]),
        lengths=lengths,
        tasks=[_texts(row.get("tasks")) for row in rows],
        names=names,
        data_paths=[path(row) for row in rows],
        videos=videos,
    )


def _texts(tasks: Any) -> tuple[str, ...]:
    """Instructions as they are found: a list, one string, null, or nothing at all."""
    tasks = [tasks] if isinstance(tasks, str) else tasks if isinstance(tasks, list) else []
    return tuple(task.strip() for task in tasks if isinstance(task, str))


def _rows_v3(files: LocalFiles) -> list[dict[str, Any]]:
    rows = []
    for path in files.list("meta/episodes", ".parquet"):
        # One by one: their column types may differ, as LeRobot leaves them.
        file = open_parquet(files.fetch(path), path)
        columns = [c for c in file.schema_arrow.names if not c.startswith("stats/")]
        rows += read_columns(file, path, columns).to_pylist()
    return rows


def _json_lines(files: LocalFiles, path: str) -> list[dict[str, Any]]:
    lines = _small(files, path).read_text(encoding="utf-8").splitlines()
    try:
        return [dict(json.loads(line)) for line in lines if line.strip()]
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} must hold a JSON object a line: {error}") from error


def _small(files: LocalFiles, path: str) -> Path:
    """A file of `meta/`, of a size that is read whole."""
    found = files.fetch(path)
    if found.stat().st_size > _LARGEST_JSON:
        raise ValueError(f"{path} must have at most {_LARGEST_JSON} bytes, got more.")
    return found


def _task_names(files: LocalFiles, info: Info) -> dict[int, str]:
    """Instruction by `task_index`: a pandas index or a column of `tasks.parquet`, or json lines."""
    rows: list[dict[str, Any]] = []
    names = ["meta/tasks.parquet", "meta/tasks.jsonl"]
    for path in names if info.version == "v3.0" else names[::-1]:
        with suppress(FileNotFoundError):
            if path.endswith(".jsonl"):
                rows = _json_lines(files, path)
            else:
                rows = read_columns(open_parquet(files.fetch(path), path), path).to_pylist()
            break
    found = {}
    for number, row in enumerate(rows):
        texts = [row[k] for k in ("task", "__index_level_0__") if isinstance(row.get(k), str)]
        texts += [value for value in row.values() if isinstance(value, str)]
        found[int(row.get("task_index", number))] = texts[0].strip() if texts else ""
    return found


def read_columns(file: pq.ParquetFile, path: str, columns: list[str] | None = None) -> pa.Table:
    """Columns of an open file, by default all.

    Raises:
        BadClipError: If it is damaged, or would take too much memory; names the file.
    """
    meta = file.metadata
    values = sum(
        part.num_values
        for group in map(meta.row_group, range(meta.num_row_groups))
        for part in map(group.column, range(group.num_columns))
        if columns is None or part.path_in_schema.startswith(tuple(columns))
    )
    if values > _MOST_VALUES:
        raise BadClipError(f"{path} declares {values} values, more than {_MOST_VALUES}")
    try:
        return file.read(columns=columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise BadClipError(f"{path} is damaged: {error}") from error


def open_parquet(path: Path, name: str) -> pq.ParquetFile:
    """Open a file; what goes wrong names it."""
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise BadClipError(f"{name} is not a complete parquet file: {error}") from error
