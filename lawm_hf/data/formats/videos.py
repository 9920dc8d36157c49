# SPDX-License-Identifier: Apache-2.0
"""Sources whose clips are video files: Something-Something v2, any folder of videos."""

import csv
import io
import json
import re
import unicodedata
from abc import abstractmethod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...writing.atomic import read_json
from ...writing.text import get_logger
from ..files import LocalFiles, files_below, is_hidden
from ..lru import LRU
from ..source import BadClipError, Features, Resize, Source
from ..text import decoded, first_text, from_path, json_lines
from ..video import Scan, Video

logger = get_logger(__name__)

VIDEO_SUFFIXES = (".webm", ".mp4", ".mkv", ".mov", ".avi", ".m4v")
VIDEO_SUFFIXES += (".mpg", ".mpeg", ".ts", ".mts", ".flv", ".wmv", ".ogv", ".3gp")
_TEXTS = (".csv", ".tsv", ".json", ".jsonl", ".txt", ".parquet")  # may hold captions
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
        # The last one that was looked at, still open: most likely it is read next.
        self._scanned: dict[int, Video] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_scans", "_scanned")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.reopen()

    def _first_fps(self) -> float:
        for clip in range(min(len(self._tasks), 20)):
            try:
                return self.fps(clip)
            except Exception as error:
                logger.warning("Could not open %s: %s", self.clip_name(clip), error)
        raise ValueError(
            f"Of the first clips of {self.name} one at least must be a video of several frames, "
            "got none that can be opened. Look at those that are named above."
        )

    def task(self, clip: int) -> str:
        """Its label."""
        return self._tasks[clip]

    def _scan(self, clip: int) -> Scan:
        return self._scans.get(clip, lambda: self._look(clip))

    def _look(self, clip: int) -> Scan:
        for video in self._scanned.values():
            video.close()
        video = Video(self.open(clip))
        found = video.scan()
        self._scanned = {clip: video} if video.rewinds else {}
        return found

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
        video = self._scanned.pop(clip, None) or Video(self.open(clip), keyframes)
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
        rows = _read_labels(labels)
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
            lines = decoded(answers.read_bytes()).splitlines()
            given = dict(line.split(";", 1) for line in lines if ";" in line)
            given = {k: v[1:-1] if v[:1] == v[-1:] == '"' else v for k, v in given.items()}
        tasks = [first_text(row.get("label")) or given.get(str(row["id"]), "") for row in rows]
        super().__init__(f"ssv2:{root},split={split}", tasks)

    def clip_name(self, clip: int) -> str:
        """`78687.webm`."""
        return f"{self.ids[clip]}.webm"

    def open(self, clip: int) -> Path:
        """See `VideoSource.open`."""
        assert self.folder is not None, "set when the source was opened"
        return self.folder / self.clip_name(clip)


class FolderSource(VideoSource):
    """Any folder of videos, searched recursively.

    Instructions come from `file_name` and `text` (the convention of `datasets`) in csv, tsv, json
    or jsonl files, by default every `metadata.csv` and `metadata.jsonl`, beside the videos or
    above; if there is none, from the file names, with `_` and `-` as spaces and a trailing number
    left out.

    Args:
        root: The folder.
        captions: The only such file, relative to the folder.
    """

    def __init__(self, root: str | Path, captions: str | None = None):
        self.root = LocalFiles(root).root
        # Hidden are what an archiver of another system, a download or a bin leaves beside a video.
        files = [p.relative_to(self.root) for p in files_below(self.root)]
        files = [p for p in files if not is_hidden(p)]
        self.paths = sorted(p.as_posix() for p in files if p.suffix.lower() in VIDEO_SUFFIXES)
        texts = sorted(p for p in files if p.suffix.lower() in _TEXTS)
        if not self.paths:
            raise FileNotFoundError(f"No video ({' '.join(VIDEO_SUFFIXES)}) below {self.root}.")
        super().__init__(f"folder:{root}", self._read_tasks(captions, texts))

    def _read_tasks(self, captions: str | None, texts: list[Path]) -> list[str]:
        files = self._caption_files(captions)
        if not files and (self.root / "meta/info.json").is_file():
            raise ValueError(
                f"{self.root} is a LeRobot set, whose videos hold many episodes and no words in "
                f"their names. Did you mean `lerobot:{self.root}`?"
            )
        if texts and not files:
            told = "The names of the videos of %s are its instructions. %s is not read: a file of "
            told += "`file_name` and `text` must be named `metadata.csv`, or by `captions=`."
            logger.warning(told, self.root, texts[0])
        if not files:
            words = [re.sub(r"[_\-\s]+", " ", from_path(Path(p).stem)) for p in self.paths]
            return [re.sub(r"\s*\d+$", "", w).strip() for w in words]
        found, root = {_same(path) for path in self.paths}, self.root.absolute()
        given: dict[str, str] = {}
        several = set()
        for file in files:
            folder = file.parent.relative_to(root) if file.is_relative_to(root) else Path()
            for name, text in _read_captions(file):
                path = folder / (name if _same(folder / name) in found else name.replace("\\", "/"))
                path = _same(path.relative_to(root) if path.is_relative_to(root) else path)
                several |= {path} if given.get(path, text) != text else set()
                given[path] = text
        if missing := sorted(set(given) - found):
            logger.warning("%d captions name no video, such as %s.", len(missing), missing[0])
        if several:
            example = min(several)
            told = "%d videos have several captions, such as %s: the last counts, %r."
            logger.warning(told, len(several), example, given[example])
        return [given.get(_same(path), "") for path in self.paths]

    def _caption_files(self, captions: str | None) -> list[Path]:
        """The files of captions, whole paths; none if the names of the videos are the texts."""
        if captions and Path(captions).expanduser().is_absolute():
            files = [Path(captions).expanduser()]
        else:
            names = [captions] if captions else ["metadata.csv", "metadata.jsonl"]
            files = [p for name in names for p in self.root.rglob(name)]
            if not captions:
                files = [p for p in files if not is_hidden(p.relative_to(self.root))]
        files = sorted(p.absolute() for p in files if p.is_file())
        if captions and not files:
            raise FileNotFoundError(f"No captions {captions} in {self.root}.")
        return files

    def clip_name(self, clip: int) -> str:
        """Its path in the folder."""
        return from_path(self.paths[clip])

    def open(self, clip: int) -> Path:
        """See `VideoSource.open`."""
        return self.root / self.paths[clip]


def _read_labels(path: Path) -> list[dict[str, Any]]:
    """Rows of a label file of Something-Something, whose `id` is a name of a file."""
    rows = read_json(path, list)
    ids = [str(row["id"]) if isinstance(row, dict) and "id" in row else "" for row in rows]
    if not all(re.fullmatch(r"[\w-]+", number) for number in ids):
        raise ValueError(f"{path} must be a list of {{id, label}} with ids of letters and digits.")
    return rows


def _read_captions(path: Path) -> list[tuple[str, str]]:
    """File names and texts of a csv, tsv, json or jsonl."""
    names, suffix = {"file_name", "text"}, path.suffix.lower()
    try:
        content = path.read_bytes()
        if suffix == ".jsonl":
            rows = json_lines(content)
        elif suffix == ".json":
            rows = list(json.loads(content))
        else:
            lines = io.StringIO(decoded(content), newline="")
            divider = "\t" if suffix == ".tsv" else ","
            how: dict[str, Any] = {"delimiter": divider, "skipinitialspace": True, "strict": True}
            table = csv.DictReader(lines, **how)
            rows = list(table) or [dict.fromkeys(table.fieldnames or (), "")]
    except (ValueError, TypeError, csv.Error, RecursionError) as error:
        problem = str(error)[:200]
    else:
        lacking = [row for row in rows if not isinstance(row, dict) or not names <= row.keys()]
        # What the reader of csv keeps under None: a text's words after its first comma.
        lacking += [row for row in rows if isinstance(row, dict) and any(row.get(None) or ())]
        if not lacking:
            texts = [(str(row["file_name"]).strip(), first_text(row["text"])) for row in rows]
            return [(name, text.strip()) for name, text in texts if name]
        problem = f"a row {str(lacking[0])[:200]}"
    raise ValueError(
        f"{path} must be UTF-8 with `file_name` and `text` in each row, divided by commas if it is "
        f'a csv, and a text with commas in "quotes", got {problem}. Save it so.'
    )


def _same(path: str | Path) -> str:
    """A path by which two systems mean the same file: Macs decompose letters with accents."""
    return unicodedata.normalize("NFC", Path(path).as_posix())


def _first_existing(paths: list[Path]) -> Path:
    for path in paths:
        if path.is_file():
            return path
    raise FileNotFoundError(f"None of {', '.join(map(str, paths))} exists.")
