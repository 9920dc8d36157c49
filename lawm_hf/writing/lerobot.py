# SPDX-License-Identifier: Apache-2.0
"""Write a LeRobot v3.0 dataset with pyarrow alone: pictures in parquet, or beside videos.

Layout and field names follow the files that lerobot 0.6.1 writes. lerobot's own writer goes through
one temporary PNG file per frame and PIL, which takes longer than simulating the frame.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .episode import Episode
from .statistics import QUANTILES, ColumnStatistics

VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
LATENT_COLUMN = "latent_action"  # of a labelled set: a chunk for each frame
FILE_SIZE_IN_MB = 16  # Several files even for small sets: readers shuffle and parallelise by file.
_TIMESTEP = ("timestamp", "frame_index", "episode_index", "index", "task_index")


class LeRobotWriter:
    """Streams episodes into a dataset folder.

    Args:
        root: Folder, without `data` and `meta` so far.
        features: LeRobot features (`dtype`, `shape`, `names`) of the pictures and vectors. Videos
            are written by the caller: `VIDEO_PATH`, one file for each `start_file`.
        tasks: Instructions, in the order of their `task_index`; others get the next ones.
        fps: Frames per second.
        robot_type: Noted in `meta/info.json`.
    """

    def __init__(
        self,
        root: Path,
        features: dict[str, dict],
        tasks: Iterable[str],
        fps: float,
        robot_type: str | None,
    ):
        self.root, self.fps, self.robot_type = root, fps, robot_type
        self.videos = [name for name, f in features.items() if f["dtype"] == "video"]
        self.tasks = {task: index for index, task in enumerate(tasks)}
        scalars = {
            name: {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1]}
            for name in _TIMESTEP
        }
        self.features = features | {k: v | {"names": None} for k, v in scalars.items()}
        self._schema = _data_schema(self.features)
        self._columns: dict[str, ColumnStatistics] = {}
        self._histograms: dict[str, np.ndarray] = {}
        self._episodes: list[dict[str, Any]] = []
        self._truth: list[dict[str, Any]] = []
        self._num_frames = self._file_index = self._file_bytes = self._file_frames = 0
        self._file: pq.ParquetWriter | None = None
        (root / "data/chunk-000").mkdir(parents=True)
        (root / "meta/episodes/chunk-000").mkdir(parents=True)

    def add(self, episode: Episode) -> None:
        """Append one episode."""
        length, index = episode.length, len(self._episodes)
        tasks = episode.tasks or [episode.task] * length
        task_index = [self.tasks.setdefault(task, len(self.tasks)) for task in tasks]
        frame = np.arange(length, dtype=np.int64)
        columns = episode.vectors | {
            "timestamp": (frame / self.fps).astype(np.float32),
            "frame_index": frame,
            "episode_index": np.full(length, index, np.int64),
            "index": self._num_frames + frame,
            "task_index": np.array(task_index, np.int64),
        }
        arrays = [
            _images(episode.images[name]) if name in episode.images else _numbers(columns[name])
            for name in self._schema.names
        ]
        self._open_file().write_table(pa.table(arrays, schema=self._schema))
        self._file_bytes += sum(len(png) for pngs in episode.images.values() for png in pngs)
        for name, values in columns.items():
            self._columns.setdefault(name, ColumnStatistics()).add(values)
        for name, counts in episode.histograms.items():
            self._histograms[name] = self._histograms.get(name, 0) + counts
        self._episodes.append(self._episode_row(index, [*dict.fromkeys(tasks)], length))
        if episode.truth:
            self._truth.append({"episode_index": columns["episode_index"], "frame_index": frame})
            self._truth[-1] |= {"task": tasks} | episode.truth
        self._num_frames += length
        self._file_frames += length

    def start_file(self, index: int) -> None:
        """The next episodes go into data file `index`, and are in the videos of that number."""
        if self._file is not None:
            self._file.close()
        self._file, self._file_index, self._file_bytes, self._file_frames = None, index, 0, 0

    def close(self) -> None:
        """Write the metadata; the folder is a dataset from now on."""
        self.start_file(self._file_index + 1)
        meta = self.root / "meta"
        pq.write_table(_tasks_table(self.tasks), meta / "tasks.parquet")
        episodes = pa.Table.from_pylist(self._episodes)
        pq.write_table(episodes, meta / "episodes/chunk-000/file-000.parquet")
        if self._truth:
            pq.write_table(_truth_table(self._truth), meta / f"{self.robot_type}_truth.parquet")
        (meta / "stats.json").write_text(json.dumps(self._stats(), indent=4))
        (meta / "info.json").write_text(json.dumps(self._info(), indent=4))

    def _open_file(self) -> pq.ParquetWriter:
        if self._file_bytes > FILE_SIZE_IN_MB * 2**20:
            self.start_file(self._file_index + 1)
        if self._file is None:
            path = self.root / _DATA_PATH.format(chunk_index=0, file_index=self._file_index)
            # One row group per episode, as LeRobot writes; PNG bytes repeat and compress no more.
            self._file = pq.ParquetWriter(path, self._schema, use_dictionary=False)
        return self._file

    def _episode_row(self, index: int, tasks: list[str], length: int) -> dict[str, Any]:
        begin = self._file_frames / self.fps
        row: dict[str, Any] = {
            "episode_index": index,
            "tasks": tasks,
            "length": length,
            "data/chunk_index": 0,
            "data/file_index": self._file_index,
            "dataset_from_index": self._num_frames,
            "dataset_to_index": self._num_frames + length,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        for video in self.videos:
            place = {"chunk_index": 0, "file_index": self._file_index}
            place |= {"from_timestamp": begin, "to_timestamp": begin + length / self.fps}
            row |= {f"videos/{video}/{key}": value for key, value in place.items()}
        return row

    def _info(self) -> dict[str, Any]:
        return {
            "codebase_version": "v3.0",
            "fps": self.fps,
            "features": self.features,
            "total_episodes": len(self._episodes),
            "total_frames": self._num_frames,
            "total_tasks": len(self.tasks),
            "chunks_size": 1000,
            "data_files_size_in_mb": FILE_SIZE_IN_MB,
            "video_files_size_in_mb": 200,
            "data_path": _DATA_PATH,
            "video_path": VIDEO_PATH if self.videos else None,
            "robot_type": self.robot_type,
            "splits": {"train": f"0:{len(self._episodes)}"},
        }

    def _stats(self) -> dict[str, dict[str, list]]:
        return {
            name: _image_stats(self._histograms[name], self._num_frames)
            if name in self._histograms
            else self._columns[name].result()
            for name in self.features
        }


def _data_schema(features: dict[str, dict]) -> pa.Schema:
    fields, hf_features = [], {}
    for name, feature in features.items():
        if feature["dtype"] == "video":
            continue
        value = {"dtype": feature["dtype"], "_type": "Value"}
        if feature["dtype"] == "image":
            kind, value = pa.struct({"bytes": pa.binary(), "path": pa.string()}), {"_type": "Image"}
        elif name in _TIMESTEP:
            kind = pa.type_for_alias(feature["dtype"])
        elif len(feature["shape"]) == 2:
            kind = pa.list_(pa.list_(pa.float32()))
            value |= {"shape": feature["shape"], "_type": "Array2D"}
        else:
            size = feature["shape"][0]
            kind = pa.list_(pa.float32(), size)
            value = {"feature": value, "length": size, "_type": "List"}
        fields.append(pa.field(name, kind))
        hf_features[name] = value
    metadata = {"huggingface": json.dumps({"info": {"features": hf_features}})}
    return pa.schema(fields, metadata=metadata)


def _images(pngs: list[bytes]) -> pa.Array:
    paths = [f"frame-{i:06d}.png" for i in range(len(pngs))]
    return pa.StructArray.from_arrays(
        [pa.array(pngs, pa.binary()), pa.array(paths)], names=["bytes", "path"]
    )


def _numbers(values: np.ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    rows: pa.Array = pa.array(values.reshape(-1))
    for size in values.shape[:0:-1]:  # the innermost first
        rows = pa.ListArray.from_arrays(pa.array(np.arange(0, len(rows) + 1, size), "int32"), rows)
    return rows


def _tasks_table(tasks: dict[str, int]) -> pa.Table:
    """`task_index`, with `task` as the index that pandas, and so LeRobot, finds there."""
    table = pa.table({"task_index": list(tasks.values()), "task": list(tasks)})
    columns = [
        {"name": n, "field_name": n, "pandas_type": p, "numpy_type": t, "metadata": None}
        for n, p, t in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns}
    return table.replace_schema_metadata(
        {"pandas": json.dumps(pandas | {"pandas_version": "2.0.0"})}
    )


def _truth_table(rows: list[dict[str, Any]]) -> pa.Table:
    columns = {}
    for name in rows[0]:
        values = [value for row in rows for value in row[name]]
        columns[name] = [v.tolist() if isinstance(v, np.ndarray) else v for v in values]
    return pa.table(columns)


def _image_stats(histogram: np.ndarray, num_frames: int) -> dict[str, list]:
    """Exact statistics of all pixels, scaled to [0, 1], each of shape (3, 1, 1)."""
    levels = np.arange(256) / 255
    share = histogram / histogram.sum(1, keepdims=True)  # (3, 256)
    mean = (share * levels).sum(1)
    stats = {
        "min": levels[(histogram > 0).argmax(1)],
        "max": levels[255 - (histogram[:, ::-1] > 0).argmax(1)],
        "mean": mean,
        "std": np.sqrt((share * (levels - mean[:, None]) ** 2).sum(1)),
    }
    cumulative = share.cumsum(1)
    for q in QUANTILES:
        stats[f"q{int(q * 100):02d}"] = levels[(cumulative >= q - 1e-12).argmax(1)]
    result = {name: value.reshape(3, 1, 1).tolist() for name, value in stats.items()}
    return result | {"count": [num_frames]}
