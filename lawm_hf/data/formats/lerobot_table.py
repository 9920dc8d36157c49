# SPDX-License-Identifier: Apache-2.0
"""`meta/` of a LeRobot set, in the dialects that are found on the Hub.

Nothing in it is trusted: paths, numbers and texts are checked.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...writing.text import get_logger
from ..files import LocalFiles
from ..source import BadClipError
from ..text import json_lines
from .lerobot_info import Info, small_file
from .parquet import open_parquet, read_columns

logger = get_logger(__name__)

_LONGEST_EPISODE = 10_000_000  # frames; a larger number is an attack on the memory


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
            seconds at which the episode begins and, if `meta` tells, ends in it.
    """

    ids: np.ndarray
    lengths: np.ndarray
    tasks: list[tuple[str, ...]]
    names: dict[int, str]
    data_paths: list[str]
    videos: dict[str, tuple[list[str], np.ndarray, np.ndarray]]


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
    by_number = {int(row["episode_index"]): row for row in rows}
    if len(by_number) < len(rows):
        told = "meta/ of %s has %d rows for %d episodes: of each the last row counts."
        logger.warning(told, name, len(rows), len(by_number))
    if len(by_number) < info.total_episodes:
        told = "meta/ of %s has %d of the %d episodes that info.json counts: is it whole?"
        logger.warning(told, name, len(by_number), info.total_episodes)
    rows = [by_number[number] for number in sorted(by_number)]
    lengths = np.array([int(row["length"]) for row in rows], np.int64)
    if not 0 <= lengths.min() <= lengths.max() <= _LONGEST_EPISODE:
        raise ValueError(
            f"An episode of {name} must have 0 to {_LONGEST_EPISODE} frames, got "
            f"{lengths.min()} to {lengths.max()}."
        )
    if not lengths.all():
        told = "%d of the %d episodes of %s have no frames, such as %d."
        empty = np.flatnonzero(lengths == 0)
        logger.warning(told, len(empty), len(rows), name, int(rows[empty[0]]["episode_index"]))

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

    def seconds(camera: str, which: str) -> np.ndarray:
        found = [row.get(f"videos/{camera}/{which}_timestamp") or 0 for row in rows]
        return np.nan_to_num(np.array(found, float))

    cameras = [c for c in info.cameras() if info.is_video(c)]
    videos = {
        c: ([path(row, c) for row in rows], seconds(c, "from"), seconds(c, "to")) for c in cameras
    }
    for camera, (paths, begins, _) in videos.items():
        _check_places(paths, begins, lengths / info.fps, f"videos/{camera} in meta/ of {name}")
    return Episodes(
        ids=np.array([int(row["episode_index"]) for row in rows]),
        lengths=lengths,
        tasks=[_texts(row.get("tasks"), names) for row in rows],
        names=names,
        data_paths=[path(row) for row in rows],
        videos=videos,
    )


def _check_places(paths: list[str], begins: np.ndarray, spans: np.ndarray, what: str) -> None:
    """Refuse a table by which episodes have a place of one video in common: it is of another set.

    Two instructions for the very same frames are none of that. Half an episode is forgiven: a rate
    may be rounded.
    """
    files = np.unique(paths, return_inverse=True)[1]
    order = np.lexsort((begins, files))
    one, two = order[:-1], order[1:]
    same = (files[one] == files[two]) & (np.array(paths, object)[one] != "")
    twins = (begins[one] == begins[two]) & (spans[one] == spans[two])
    shared = same & ~twins & (begins[two] < begins[one] + spans[one] / 2)
    if shared.any():
        at = int(one[shared.argmax()])
        raise ValueError(
            f"Each episode must have frames of its own, but by {what} (`file_index`, "
            f"`from_timestamp`) two share those of {paths[at]} after {begins[at]:g} s, and "
            f"{shared.sum()} pairs do in all. Fetch or write meta/ again."
        )


def _texts(tasks: Any, names: dict[int, str]) -> tuple[str, ...]:
    """Instructions as they are found: a list, one string, numbers, null, or nothing at all."""
    tasks = tasks if isinstance(tasks, list) else [tasks]
    found = [names.get(t, "") if type(t) is int else t for t in tasks]
    return tuple(task.strip() for task in found if isinstance(task, str))


def _rows_v3(files: LocalFiles) -> list[dict[str, Any]]:
    rows = []
    for path in files.list("meta/episodes", ".parquet"):
        # One by one: their column types may differ, as LeRobot leaves them.
        file = open_parquet(files.fetch(path), path)
        columns = [c for c in file.schema_arrow.names if not c.startswith("stats/")]
        rows += read_columns(file, path, columns).to_pylist()
    return rows


def _json_lines(files: LocalFiles, path: str) -> list[dict[str, Any]]:
    try:
        return [dict(row) for row in json_lines(small_file(files, path).read_bytes())]
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} must hold a JSON object a line: {error}") from error


def _task_names(files: LocalFiles, info: Info) -> dict[int, str]:
    """Instruction by `task_index`: a pandas index or a column of `tasks.parquet`, or json lines."""
    rows: list[dict[str, Any]] = []
    names = ["meta/tasks.parquet", "meta/tasks.jsonl"]
    path = names[0]
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
        others = [value for value in row.values() if isinstance(value, str)]
        if not texts and len(others) > 1:
            told = "%s is not used: it must hold `task` and `task_index`, got %s."
            logger.warning(told, path, str(row)[:200])
            return {}
        found[int(row.get("task_index", number))] = [*texts, *others, ""][0].strip()
    return found
