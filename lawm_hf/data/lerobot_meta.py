# SPDX-License-Identifier: Apache-2.0
"""The tables of a LeRobot v3.0 set whose videos are there: the second half of `write_lerobot`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # comes with `datasets`
import pyarrow as pa
import pyarrow.parquet as pq

from .convert import camera_key, common_cameras
from .source import Source, statistics

_SCALARS = {
    "timestamp": "float32",
    **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64"),
}


def write_meta(source: Source, out: Path, image_size: int) -> None:
    """Write `data/` and `meta/` from the notes that the parts left in `.parts/`."""
    cameras = [camera_key(c) for c in common_cameras(source)]
    fps = round(source.features.fps)
    episodes: list[dict[str, Any]] = []
    columns: dict[str, list[np.ndarray]] = {}
    tasks: dict[str, int] = {}
    total = 0
    for path in sorted((out / ".parts").glob("*.json")):
        if path.name == "job.json":
            continue
        number, rows, low_dim = int(path.stem), json.loads(path.read_text()), _load(path)
        tables, seconds = [], 0.0
        for row in rows:
            task_index = tasks.setdefault(row["task"], len(tasks))
            table, values = _episode_table(row, low_dim, fps, len(episodes), total, task_index)
            tables.append(table)
            for key, value in values.items():
                columns.setdefault(key, []).append(value)
            episodes.append(_episode_row(row, cameras, len(episodes), number, total, seconds, fps))
            seconds, total = seconds + row["length"] / fps, total + row["length"]
        if tables:
            data = out / f"data/chunk-000/file-{number:05d}.parquet"
            data.parent.mkdir(parents=True, exist_ok=True)
            with pq.ParquetWriter(data, tables[0].schema) as writer:
                for table in tables:  # a row group per episode: a reader skips the others
                    writer.write_table(table)
    if not episodes:
        raise ValueError(f"No clip of {source.name} was converted; see {out}/.parts/*.skipped.")
    folder = out / "meta/episodes/chunk-000"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(episodes), folder / "file-000.parquet")
    _write_tasks(tasks, out / "meta/tasks.parquet")
    stats = {k: _listed(statistics(np.concatenate(v)), total) for k, v in columns.items()}
    (out / "meta/stats.json").write_text(json.dumps(stats, indent=1))
    info = _info(columns, cameras, image_size, fps, len(episodes), total, len(tasks))
    (out / "meta/info.json").write_text(json.dumps(info, indent=1))


def _load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path.with_suffix(".npz")) as stored:
        return {key: stored[key] for key in stored.files}


def _episode_table(
    row: dict[str, Any],
    low_dim: dict[str, np.ndarray],
    fps: int,
    episode: int,
    first: int,
    task_index: int,
) -> tuple[pa.Table, dict[str, np.ndarray]]:
    length = row["length"]
    steps = np.arange(length)
    columns: dict[str, Any] = {}
    for key, name in (("observation.state", "state"), ("action", "actions")):
        values = low_dim.get(f"{name}_{row['clip']}")
        if values is not None:
            columns[key] = values.astype(np.float32)
    vectors = dict(columns)
    for key, value in columns.items():
        flat = pa.array(value.reshape(-1))
        columns[key] = pa.FixedSizeListArray.from_arrays(flat, value.shape[1])
    columns["timestamp"] = (steps / fps).astype(np.float32)
    columns["frame_index"] = steps
    columns["episode_index"] = np.full(length, episode)
    columns["index"] = first + steps
    columns["task_index"] = np.full(length, task_index)
    return pa.table(columns), vectors


def _episode_row(
    row: dict[str, Any],
    cameras: list[str],
    episode: int,
    number: int,
    first: int,
    seconds: float,
    fps: int,
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "episode_index": episode,
        "tasks": [row["task"]],
        "length": row["length"],
        "data/chunk_index": 0,
        "data/file_index": number,
        "dataset_from_index": first,
        "dataset_to_index": first + row["length"],
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
    }
    for camera in cameras:
        found[f"videos/{camera}/chunk_index"] = 0
        found[f"videos/{camera}/file_index"] = number
        found[f"videos/{camera}/from_timestamp"] = seconds
        found[f"videos/{camera}/to_timestamp"] = seconds + row["length"] / fps
    return found


def _write_tasks(tasks: dict[str, int], path: Path) -> None:
    """LeRobot reads this table with pandas, the sentence being its index."""
    index = pd.Index(list(tasks), name="task")
    pd.DataFrame({"task_index": list(tasks.values())}, index=index).to_parquet(path)


def _listed(stats: dict[str, np.ndarray], count: int) -> dict[str, Any]:
    return {**{k: v.tolist() for k, v in stats.items()}, "count": [count]}


def _info(
    columns: dict[str, list[np.ndarray]],
    cameras: list[str],
    image_size: int,
    fps: int,
    num_episodes: int,
    num_frames: int,
    num_tasks: int,
) -> dict[str, Any]:
    picture = {
        "dtype": "video",
        "shape": [image_size, image_size, 3],
        "names": ["height", "width", "channels"],
        "info": {"video.fps": fps, "video.codec": "h264", "video.pix_fmt": "yuv420p"},
    }
    features: dict[str, Any] = dict.fromkeys(cameras, picture)
    for key, values in columns.items():
        features[key] = {"dtype": "float32", "shape": [values[0].shape[1]], "names": None}
    for key, dtype in _SCALARS.items():
        features[key] = {"dtype": dtype, "shape": [1], "names": None}
    return {
        "codebase_version": "v3.0",
        "robot_type": None,
        "total_episodes": num_episodes,
        "total_frames": num_frames,
        "total_tasks": num_tasks,
        "chunks_size": 100_000,
        "fps": fps,
        "splits": {"train": f"0:{num_episodes}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:05d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:05d}.mp4",
        "features": features,
    }
