# SPDX-License-Identifier: Apache-2.0
"""Sources whose clips are video files: Something-Something v2, tar shards, any folder of videos."""

import csv
import fnmatch
import io
import json
import logging
import re
import tarfile
from abc import abstractmethod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..files import LocalFiles, open_files
from ..images import Video, scan_video
from ..lru import LRU
from ..source import BadClipError, Features, Resize, Source

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".webm", ".mp4", ".mkv", ".mov", ".avi", ".m4v")
CAMERA = "video"
_STEADY = 0.1  # frames from where a steady rate would show it
_SCANS = 4096  # clips whose frame times are remembered, per process


class VideoSource(Source):
    """Clips that are whole video files, of rates and lengths that only opening them tells."""

    def __init__(self, name: str, tasks: list[str]):
        self.name, self._tasks = name, tasks
        self.clips = np.arange(len(tasks))
        self.reopen()
        self.features = Features(fps=self._first_fps(), cameras=(CAMERA,))

    @abstractmethod
    def open(self, clip: int) -> Path | BinaryIO:
        """The clip's video."""

    def reopen(self) -> None:
        """See `Source.reopen`."""
        self._scans = LRU(_SCANS)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_scans"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.reopen()

    def _first_fps(self) -> float:
        for clip in range(min(len(self._tasks), 20)):
            try:
                return self.fps(clip)
            except Exception as error:
                logger.warning("Could not open %s: %s", self.clip_name(clip), error)
        raise ValueError(f"None of the first clips of {self.name} can be opened.")

    def task(self, clip: int) -> str:
        """Its label."""
        return self._tasks[clip]

    def _scan(self, clip: int) -> tuple[np.ndarray, np.ndarray, float]:
        return self._scans.get(clip, lambda: scan_video(self.open(clip)))

    def length(self, clip: int) -> int:
        """Frames in the file, counted without decoding."""
        return len(self._scan(clip)[0])

    def fps(self, clip: int) -> float:
        """Mean rate of the clip."""
        times, _, time_base = self._scan(clip)
        if len(times) < 2 or times[-1] == times[0]:
            raise BadClipError("a video of one frame")
        return (len(times) - 1) / (float(times[-1] - times[0]) * time_base)

    def times(self, clip: int) -> np.ndarray | None:
        """See `Source.times`; rounding to milliseconds, as webm does, is no varying rate."""
        times, _, time_base = self._scan(clip)
        seconds = (times - times[0]) * time_base
        drift = np.abs(seconds * self.fps(clip) - np.arange(len(times))).max()
        return seconds if drift > _STEADY else None

    def decode(
        self, clip: int, camera: str, indices: np.ndarray, size: int, resize: Resize
    ) -> np.ndarray:
        """See `Source.decode`."""
        times, keyframes, _ = self._scan(clip)
        video = Video(self.open(clip), keyframes)
        try:
            return video.read(times[indices], 0, size, resize)
        finally:
            video.close()


class SSv2Source(VideoSource):
    """Something-Something v2 as Qualcomm hands it out: a folder of `{id}.webm`, and label files.

    Both naming schemes of the label files are known, in the folder or in `labels/`.

    Args:
        root: The folder that holds both.
        split: `train`, `validation` or `test` (which has no labels but in `test-answers.csv`).
    """

    def __init__(self, root: str | Path, split: str = "train"):
        root = Path(root).expanduser()
        names = (f"{split}.json", f"something-something-v2-{split}.json")
        labels = _first_existing([root / d / n for d in ("labels", "") for n in names])
        rows = json.loads(labels.read_text())
        folders = [root / "20bn-something-something-v2", root / "videos", root]
        self.ids = [str(row["id"]) for row in rows]
        self.rows: list[dict[str, Any]] = rows
        self.folder = next((f for f in folders if next(f.glob("*.webm"), None)), None)
        if self.folder is None:
            looked = ", ".join(str(f) for f in folders)
            raise FileNotFoundError(f"No *.webm of Something-Something v2 in any of {looked}.")
        answers = root / "labels/test-answers.csv"
        given = {}
        if split == "test" and answers.is_file():
            given = dict(line.split(";", 1) for line in answers.read_text().splitlines() if line)
        tasks = [row.get("label") or given.get(str(row["id"]), "") for row in rows]
        super().__init__(f"ssv2:{root},split={split}", tasks)

    def clip_name(self, clip: int) -> str:
        """`78687.webm`."""
        return f"{self.ids[clip]}.webm"

    def open(self, clip: int) -> Path:
        """See `VideoSource.open`."""
        assert self.folder is not None, "set when the source was opened"
        return self.folder / self.clip_name(clip)


class FolderSource(VideoSource):
    """Any folder of videos, searched deeply.

    Instructions come from a csv with the columns `file_name` and `text` (the convention of
    `datasets`), by default `metadata.csv` if there is one; else from the file names, with `_` and
    `-` as spaces and a trailing number left out.

    Args:
        root: The folder.
        captions: The csv, relative to the folder.
    """

    def __init__(self, root: str | Path, captions: str = "metadata.csv"):
        self.root = LocalFiles(root).root
        self.paths = sorted(
            p.relative_to(self.root).as_posix()
            for p in self.root.rglob("*")
            if p.suffix.lower() in VIDEO_SUFFIXES
        )
        if not self.paths:
            raise FileNotFoundError(f"No video ({' '.join(VIDEO_SUFFIXES)}) below {self.root}.")
        super().__init__(f"folder:{root}", self._read_tasks(self.root / captions))

    def _read_tasks(self, captions: Path) -> list[str]:
        if not captions.is_file():
            words = [re.sub(r"[_\-\s]+", " ", Path(p).stem) for p in self.paths]
            return [re.sub(r"\s*\d+$", "", w).strip() for w in words]
        with captions.open(newline="") as file:
            rows = list(csv.DictReader(file))
        if rows and not {"file_name", "text"} <= set(rows[0]):
            raise ValueError(f"{captions} needs columns file_name, text; it has {list(rows[0])}.")
        given = {row["file_name"]: (row["text"] or "").strip() for row in rows}
        return [given.get(path, "") for path in self.paths]

    def clip_name(self, clip: int) -> str:
        """Its path in the folder."""
        return self.paths[clip]

    def open(self, clip: int) -> Path:
        """See `VideoSource.open`."""
        return self.root / self.paths[clip]


class ShardSource(VideoSource):
    """Uncompressed tar shards of `{key}.json` (or `.txt`) and `{key}.webm` (or `.mp4`, …).

    `index.jsonl` beside the shards, as `lawm-hf convert` writes it, says where each clip is.
    Without it every shard is looked through once; a remote set is downloaded for that.

    Args:
        pattern: `DIR/train-*.tar`, or `hf://datasets/user/name[@revision]/train-*.tar`.
    """

    INDEX = "index.jsonl"

    def __init__(self, pattern: str):
        folder, _, glob = pattern.rpartition("/")
        self.store = open_files(folder or ".")
        shards = [s for s in self.store.list("", ".tar") if fnmatch.fnmatch(s, glob)]
        if not shards:
            raise FileNotFoundError(f"No file matches {glob} in {folder or 'this folder'}.")
        rows = self._read_index(shards)
        self._rows = [(r["shard"], r["key"], r["offset"], r["size"]) for r in rows]
        super().__init__(f"wds:{pattern}", [r["task"] for r in rows])
        if self.store.is_remote:
            self.files = np.unique([r["shard"] for r in rows], return_inverse=True)[1]

    def _read_index(self, shards: list[str]) -> list[dict[str, Any]]:
        try:
            lines = self.store.fetch(self.INDEX).read_text().splitlines()
        except OSError:
            return [row for shard in shards for row in index_shard(self.store.fetch(shard), shard)]
        wanted = set(shards)
        return [row for row in map(json.loads, lines) if row["shard"] in wanted]

    def clip_name(self, clip: int) -> str:
        """`78687 in train-00003.tar`."""
        return f"{self._rows[clip][1]} in {self._rows[clip][0]}"

    def open(self, clip: int) -> BinaryIO:
        """See `VideoSource.open`."""
        shard, _, offset, size = self._rows[clip]
        with self.store.fetch(shard).open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise BadClipError(f"the shard ends {size - len(data)} bytes early")
        return io.BytesIO(data)


def index_shard(path: Path, shard: str) -> list[dict[str, Any]]:
    """Where the videos of a shard lie, with their instructions.

    A shard that is cut short yields what comes before the cut; the rest is named in the log.
    """
    videos: dict[str, tuple[int, int]] = {}
    tasks: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, suffix = Path(member.name).name.partition(".")
                if f".{suffix}" in VIDEO_SUFFIXES:
                    videos[key] = member.offset_data, member.size
                elif suffix in ("json", "txt") and (file := tar.extractfile(member)) is not None:
                    tasks[key] = _label(file.read(), suffix)
    except (tarfile.TarError, OSError, ValueError) as error:
        logger.warning("Shard %s is damaged after %d clips: %s", shard, len(videos), error)
    return [
        {"shard": shard, "key": k, "offset": at, "size": size, "task": tasks.get(k, "")}
        for k, (at, size) in videos.items()
    ]


def _label(data: bytes, suffix: str) -> str:
    if suffix == "txt":
        return data.decode().strip()
    row = json.loads(data)
    return str(next((row[k] for k in ("label", "task", "text", "caption") if row.get(k)), ""))


def _first_existing(paths: list[Path]) -> Path:
    for path in paths:
        if path.is_file():
            return path
    raise FileNotFoundError(f"None of {', '.join(map(str, paths))} exists.")
