# SPDX-License-Identifier: Apache-2.0
"""LeRobot data sets v2.0, v2.1 and v3.0, read as they are: no conversion, no lerobot.

Every path comes from the templates of `meta/info.json`, never from a guess: sets differ in them. In
v3.0 many episodes share one mp4; episode time starts at `from_timestamp` of the *file* (lerobot's
own streaming reader takes the global index, https://github.com/huggingface/lerobot/issues/4524).
"""

import bisect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import LocalFiles
from ..images import Video, decode_image
from ..lru import LRU
from ..source import STATISTICS, BadClipError, Features, Resize, Source

_CACHE_BYTES = 256 << 20  # of parquet columns, per process
_OPEN_VIDEOS = 8


class LeRobotSource(Source):
    """A LeRobot data set.

    Args:
        files: Its folder, or its revision on the Hub.
        name: Spec.
        action: Feature with the action, or several joined by `+`. By default `action`,
            `actions`, or every `action.*` in the order of `info.json`.
        state: The same for the robot's state, by default `observation.state`, `state` or every
            `observation.state.*`.
    """

    def __init__(
        self,
        files: LocalFiles,
        name: str,
        *,
        action: str | None = None,
        state: str | None = None,
    ):
        self.store, self.name = files, name
        self.info = json.loads(files.fetch("meta/info.json").read_text())
        self.version = str(self.info.get("codebase_version", "?"))
        if self.version not in ("v2.0", "v2.1", "v3.0"):
            raise ValueError(f"{name} is of version {self.version}; v2.0, v2.1 and v3.0 are read.")
        self._stored = self.info["features"]
        self._actions = _low_dim_keys(self._stored, action, ("action", "actions"))
        self._state = _low_dim_keys(self._stored, state, ("observation.state", "state"))
        self.features = Features(
            fps=float(self.info["fps"]),
            cameras=_cameras(self._stored),
            state_size=_total_size(self._stored, self._state),
            action_size=_total_size(self._stored, self._actions),
        )
        table = self._read_v3() if self.version == "v3.0" else self._read_v2()
        self._tasks: list[str] = table["tasks"]
        self._episodes: np.ndarray = table["episodes"]
        self._row0: np.ndarray = table["row0"]
        self._data_paths: list[str] = table["data_paths"]
        self._videos: dict[str, tuple[list[str], np.ndarray]] = table["videos"]
        self.lengths = table["lengths"]
        self.clips = np.arange(len(table["lengths"]))
        if files.is_remote:
            main = self.features.cameras[0]
            names = self._videos[main][0] if main in self._videos else self._data_paths
            self.files = np.unique(names, return_inverse=True)[1]
        self.reopen()

    def reopen(self) -> None:
        """See `Source.reopen`."""
        self._tables = LRU(_CACHE_BYTES, lambda table: table.nbytes)
        self._parquets = LRU(_OPEN_VIDEOS, close=lambda file: file[0].close())
        self._videos_open = LRU(_OPEN_VIDEOS, close=Video.close)
        self._low_dim = LRU(_CACHE_BYTES, lambda rows: sum(r.nbytes for r in rows if r is not None))

    def __getstate__(self) -> dict[str, Any]:
        caches = ("_tables", "_parquets", "_videos_open", "_low_dim")
        return {k: v for k, v in self.__dict__.items() if k not in caches}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.reopen()

    # The episode table -------------------------------------------------------------------------

    def _read_v3(self) -> dict[str, Any]:
        cameras = [c for c in self.features.cameras if self._stored[c]["dtype"] == "video"]
        columns = ["episode_index", "tasks", "length", "dataset_from_index"]
        columns += ["data/chunk_index", "data/file_index"]
        columns += [
            f"videos/{c}/{part}"
            for c in cameras
            for part in ("chunk_index", "file_index", "from_timestamp")
        ]
        paths = self.store.list("meta/episodes", ".parquet")
        if not paths:
            raise FileNotFoundError(f"{self.name} has no meta/episodes/**/*.parquet.")
        table = pa.concat_tables(
            pq.read_table(self.store.fetch(p), columns=columns) for p in paths
        ).sort_by("episode_index")
        column = {k: table[k].to_numpy() for k in columns if k != "tasks"}
        data_paths = [
            self.info["data_path"].format(chunk_index=chunk, file_index=file)
            for chunk, file in zip(
                column["data/chunk_index"], column["data/file_index"], strict=True
            )
        ]
        begins = column["dataset_from_index"].astype(np.int64)
        first: dict[str, Any] = {}
        for path, begin in zip(data_paths, begins.tolist(), strict=True):
            first[path] = min(first.get(path, begin), begin)
        videos = {}
        for c in cameras:
            place = column[f"videos/{c}/chunk_index"], column[f"videos/{c}/file_index"]
            names = [
                self.info["video_path"].format(video_key=c, chunk_index=chunk, file_index=file)
                for chunk, file in zip(*place, strict=True)
            ]
            videos[c] = names, column[f"videos/{c}/from_timestamp"]
        return {
            "tasks": [(tasks or [""])[0] or "" for tasks in table["tasks"].to_pylist()],
            "episodes": column["episode_index"],
            "lengths": column["length"].astype(np.int64),
            "row0": begins - np.array([first[p] for p in data_paths]),
            "data_paths": data_paths,
            "videos": videos,
        }

    def _read_v2(self) -> dict[str, Any]:
        rows = [
            json.loads(line)
            for line in self.store.fetch("meta/episodes.jsonl").read_text().splitlines()
            if line.strip()
        ]
        rows.sort(key=lambda row: row["episode_index"])
        chunks_size = self.info.get("chunks_size", 1000)

        def place(row: dict[str, Any], **more: str) -> dict[str, Any]:
            episode = row["episode_index"]
            return {"episode_index": episode, "episode_chunk": episode // chunks_size, **more}

        videos = {
            c: (
                [self.info["video_path"].format(**place(row, video_key=c)) for row in rows],
                np.zeros(len(rows)),
            )
            for c in self.features.cameras
            if self._stored[c]["dtype"] == "video"
        }
        return {
            "tasks": [(row.get("tasks") or [""])[0] or "" for row in rows],
            "episodes": np.array([row["episode_index"] for row in rows]),
            "lengths": np.array([row["length"] for row in rows], np.int64),
            "row0": np.zeros(len(rows), np.int64),
            "data_paths": [self.info["data_path"].format(**place(row)) for row in rows],
            "videos": videos,
        }

    # One clip ----------------------------------------------------------------------------------

    def clip_name(self, clip: int) -> str:
        """`episode 17`."""
        return f"episode {self._episodes[clip]}"

    def task(self, clip: int) -> str:
        """The episode's first task."""
        return self._tasks[clip].strip()

    def decode(
        self, clip: int, camera: str, indices: np.ndarray, size: int, resize: Resize
    ) -> np.ndarray:
        """See `Source.decode`."""
        if camera not in self._videos:
            rows = self._rows(clip, camera, indices)
            return np.stack([decode_image(row["bytes"], size, resize) for row in rows])
        path = self._videos[camera][0][clip]
        video = self._videos_open.get(path, lambda: Video(self.store.fetch(path)))
        try:
            seconds = self._videos[camera][1][clip] + indices / self.features.fps
            times = np.round(seconds / video.time_base).astype(np.int64)
            tolerance = int(0.45 / self.features.fps / video.time_base)
            return video.read(times, tolerance, size, resize)
        except Exception:
            self._videos_open.drop(path)  # its decoder may be in any state
            raise

    def _rows(self, clip: int, column: str, indices: np.ndarray) -> list[Any]:
        """Values of a (large) column at rows of the clip, reading only their row groups."""
        path = self._data_paths[clip]
        file, begins = self._parquets.get(path, lambda: _open_parquet(self.store.fetch(path)))
        values = []
        for row in (self._row0[clip] + indices).tolist():
            group = bisect.bisect_right(begins, row) - 1
            table = self._tables.get(
                (path, column, group),
                lambda group=group: file.read_row_group(group, columns=[column, "episode_index"]),
            )
            self._check_episode(clip, table["episode_index"][row - begins[group]].as_py())
            values.append(table[column][row - begins[group]].as_py())
        return values

    def low_dim(self, clip: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """State and actions of the episode, aligned with its frames."""
        if not self._state and not self._actions:
            return None, None
        return self._low_dim.get(clip, lambda: self._read_low_dim(clip))

    def _read_low_dim(self, clip: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        assert self.lengths is not None
        path, length = self._data_paths[clip], int(self.lengths[clip])
        columns = [*self._state, *self._actions, "episode_index"]
        table = self._tables.get(
            path, lambda: pq.read_table(self.store.fetch(path), columns=columns)
        ).slice(int(self._row0[clip]), length)
        if table.num_rows != length:
            raise BadClipError(f"{table.num_rows} rows of data for {length} frames")
        for episode in np.unique(table["episode_index"].to_numpy()):
            self._check_episode(clip, episode)
        return _join(table, self._state), _join(table, self._actions)

    def _check_episode(self, clip: int, found: int) -> None:
        if found != self._episodes[clip]:
            raise BadClipError(f"its rows belong to episode {found}")

    def stats(self, max_clips: int = 5000) -> dict[str, dict[str, np.ndarray]]:
        """From `meta/stats.json` for the whole set, if it has all; else computed."""
        try:
            stored = json.loads(self.store.fetch("meta/stats.json").read_text())
        except FileNotFoundError:
            stored = {}
        keys = [*self._state, *self._actions]
        complete = all(set(STATISTICS) <= set(stored.get(k, ())) for k in keys)
        if not complete or len(self.clips) < len(self._episodes):
            return super().stats(max_clips)
        found = {}
        for name, parts in (("state", self._state), ("actions", self._actions)):
            if parts:
                found[name] = {
                    s: np.concatenate([np.asarray(stored[k][s], np.float32) for k in parts])
                    for s in STATISTICS
                }
        return found


def _cameras(stored: dict[str, Any]) -> tuple[str, ...]:
    def is_depth(feature: dict[str, Any]) -> bool:
        info = feature.get("info") or feature.get("video_info") or {}
        return bool(info.get("video.is_depth_map") or info.get("is_depth_map"))

    return tuple(
        k for k, f in stored.items() if f["dtype"] in ("image", "video") and not is_depth(f)
    )


def _low_dim_keys(
    stored: dict[str, Any], asked: str | None, usual: Sequence[str]
) -> tuple[str, ...]:
    if asked is not None:
        keys = tuple(asked.split("+")) if asked else ()
        for key in keys:
            if key not in stored:
                raise ValueError(f"No feature `{key}`; there are {', '.join(stored)}.")
        return keys
    for key in usual:
        if key in stored:
            return (key,)
    numeric = (k for k, f in stored.items() if f["dtype"].startswith(("float", "int")))
    return tuple(k for k in numeric if k.startswith(usual[0] + "."))


def _total_size(stored: dict[str, Any], keys: Sequence[str]) -> int:
    return sum(int(np.prod(stored[k]["shape"])) for k in keys)


def _open_parquet(path: Path) -> tuple[pq.ParquetFile, list[int]]:
    """An open file, and the first row of each of its row groups."""
    file = pq.ParquetFile(path)
    counts = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
    return file, [0, *np.cumsum(counts)[:-1].tolist()]


def _join(table: pa.Table, keys: Sequence[str]) -> np.ndarray | None:
    """Columns of numbers or lists of numbers side by side, `(T, sizes together)` float32."""
    if not keys:
        return None
    parts = [np.array(table[k].to_pylist(), np.float32).reshape(table.num_rows, -1) for k in keys]
    return np.concatenate(parts, axis=1)
