# SPDX-License-Identifier: Apache-2.0
"""The rows of a LeRobot set: which file holds an episode's, in order."""

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...writing.text import get_logger
from ..files import LocalFiles
from ..lru import LRU
from ..source import BadClipError
from .lerobot_info import Info
from .parquet import open_parquet, read_columns

logger = get_logger(__name__)

_CACHE_BYTES = 256 << 20  # of parquet columns, per process
_OPEN_FILES = 8
_OTHER_UNIT = 100  # frames from one to the next: those are no seconds, but perhaps milliseconds
_ALWAYS = ("episode_index", "frame_index", "timestamp", "task_index")


@dataclass
class _Rows:
    """Columns of a file; row `i` of `table` is row `order[i]` of the file."""

    table: pa.Table
    episodes: np.ndarray
    order: np.ndarray


@dataclass
class EpisodeRows:
    """What the rows of an episode say."""

    path: str
    rows: np.ndarray
    state: np.ndarray | None
    actions: np.ndarray | None
    tasks: list[str] | None
    seconds: np.ndarray | None
    is_steady: bool  # those keep the rate of `info.json`, or there are none
    padded: set[str]

    @property
    def nbytes(self) -> int:
        """About what it takes in memory."""
        arrays = (self.rows, self.state, self.actions, self.seconds)
        return sum(a.nbytes for a in arrays if a is not None) + 8 * len(self.tasks or ())


class RowFiles:
    """The parquet files below `data/`.

    Args:
        files: The set.
        info: Its `info.json`.
        columns: The columns of numbers that are wanted, besides the usual ones.
    """

    def __init__(self, files: LocalFiles, info: Info, columns: Sequence[str]):
        self.files, self.info, self.columns = files, info, {*columns, *_ALWAYS}
        self._file_of: dict[int, str] = {}  # found by looking into the files
        self._looked: set[str] = set()
        self.reopen()

    def reopen(self) -> None:
        """See `Source.reopen`."""
        self._tables = LRU(_CACHE_BYTES, lambda rows: rows.table.nbytes)
        self._groups = LRU(_CACHE_BYTES, lambda table: table.nbytes)
        self._parquets = LRU(_OPEN_FILES, close=lambda opened: opened[0].close())

    def __getstate__(self) -> dict[str, Any]:
        caches = ("_tables", "_groups", "_parquets")
        return {k: v for k, v in self.__dict__.items() if k not in caches}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.reopen()

    def pictures(self, path: str, camera: str, rows: np.ndarray) -> list[bytes | Path]:
        """Encoded pictures in rows of a file, of which only those row groups are read."""
        file, starts = self._open(path)
        found = []
        for row in rows.tolist():
            group = bisect.bisect_right(starts, row) - 1
            table = self._groups.get(
                (path, camera, group), lambda g=group: file.read_row_group(g, columns=[camera])
            )
            found.append(self._picture(table[camera][row - starts[group]].as_py(), row))
        return found

    def _picture(self, value: Any, row: int) -> bytes | Path:
        """The bytes of a picture or where it lies: sets hold either, in a structure or bare."""
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            got = type(value).__name__
            raise BadClipError(f"row {row} must hold the bytes of a picture or its path, got {got}")
        root = self.files.root
        inner = Path(value).is_absolute() and Path(value).is_relative_to(root)
        return self.files.fetch(Path(value).relative_to(root).as_posix() if inner else value)

    def _open(self, path: str) -> tuple[pq.ParquetFile, list[int]]:
        """A file, and the first row of each of its row groups."""

        def read() -> tuple[pq.ParquetFile, list[int]]:
            file = open_parquet(self.files.fetch(path), path)
            groups = (file.metadata.row_group(g) for g in range(file.num_row_groups))
            return file, list(itertools.accumulate((g.num_rows for g in groups), initial=0))[:-1]

        return self._parquets.get(path, read)

    def _read_rows(self, path: str) -> "_Rows":
        """The columns of numbers of a file, its rows sorted by episode and frame."""
        file, _ = self._open(path)
        table = read_columns(file, path, [c for c in file.schema_arrow.names if c in self.columns])
        if "episode_index" not in table.column_names:
            raise BadClipError(f"{path} has no column `episode_index`")
        episodes = flat(table, "episode_index").astype(np.int64)
        keys = [flat(table, "frame_index")] if "frame_index" in table.column_names else []
        order = np.lexsort((*keys, episodes))
        if (np.diff(order) != 1).any():
            table, episodes = table.take(order), episodes[order]
        return _Rows(table, episodes, order)

    def find(self, episode: int, stated: str) -> tuple[str, pa.Table, np.ndarray]:
        """Where an episode's rows are.

        `meta` may be stale (the set was written again, `meta` was not): the nearest file counts.

        Args:
            episode: Its number.
            stated: The file in which it should be.

        Returns:
            The file, the rows in order, and their numbers in the file.
        """
        for path in (self._file_of.get(episode, stated), None):
            try:
                path = path or self._search(episode, stated)
                rows = self._tables.get(path, lambda path=path: self._read_rows(path))
            except FileNotFoundError:
                if self.info.version != "v3.0":
                    raise
                continue
            begin, end = np.searchsorted(rows.episodes, [episode, episode + 1]).tolist()
            if begin < end:
                table = rows.table.slice(begin, end - begin)
                if "frame_index" in table.column_names and table["frame_index"].null_count:
                    raise BadClipError(f"rows without a `frame_index` in {path}")
                return path, table, rows.order[begin:end].copy()
        raise BadClipError(f"no data file holds its rows; {stated} should")

    def _search(self, episode: int, stated: str) -> str:
        folder = self.info.data_path.partition("{")[0].rpartition("/")[0]
        paths = self.files.list(folder, ".parquet") if self.info.version == "v3.0" else []
        at = bisect.bisect(paths, stated.removeprefix("./"))
        for path in [paths[i] for i in sorted(range(len(paths)), key=lambda i: abs(i - at))]:
            if episode in self._file_of:
                break
            if path in self._looked:
                continue
            self._looked.add(path)
            try:
                table = read_columns(self._open(path)[0], path, ["episode_index"])
            except BadClipError as error:
                logger.warning("Looking for episode %d: %s", episode, error)
                continue
            for number in np.unique(flat(table, "episode_index")).tolist():
                self._file_of.setdefault(number, path)
        return self._file_of.get(episode, stated)


def seconds(table: pa.Table, fps: float) -> np.ndarray | None:
    """When each frame was taken, in seconds, if the rows tell; from 0, if none was cut off."""
    if "timestamp" not in table.column_names or not len(table):
        return None
    seconds = flat(table, "timestamp").astype(float)
    steps = np.diff(seconds) * fps
    told = np.isfinite(seconds).all() and seconds[0] * fps > -0.5 and (steps > 0).all()
    told = told and (not len(steps) or np.median(steps) < _OTHER_UNIT)
    if told and seconds[0] * fps >= 0.5:  # rows were cut off, if these are frames of the video
        told = (np.abs(seconds * fps - np.round(seconds * fps)) < 0.1).all()
    return seconds if told else None


def is_steady(seconds: np.ndarray, fps: float) -> bool:
    """Whether these times keep a rate, to within half a frame."""
    frames = (seconds - seconds[0]) * fps
    return bool((np.abs(frames - np.arange(len(frames))) < 0.5).all())


def flat(table: pa.Table, key: str) -> np.ndarray:
    """A column of single numbers, which some sets store as lists of one."""
    column = table[key].combine_chunks()
    while pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    return column.to_numpy(zero_copy_only=False).reshape(len(table))


def join(table: pa.Table, keys: Sequence[str]) -> np.ndarray | None:
    """Columns of numbers or lists of numbers side by side, `(T, sizes together)` float32."""
    if not keys:
        return None
    parts = []
    for key in keys:
        if key not in table.column_names:
            raise BadClipError(f"its rows have no column `{key}`")
        try:
            values = np.array(table[key].to_pylist(), np.float32)
        except (ValueError, TypeError) as error:
            raise BadClipError(f"`{key}` is not numbers, as many in each row: {error}") from error
        parts.append(values.reshape(table.num_rows, -1))
    return np.concatenate(parts, axis=1)
