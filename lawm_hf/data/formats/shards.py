# SPDX-License-Identifier: Apache-2.0
"""Tar shards of videos, as WebDataset and `lawm-hf convert` write them."""

import fnmatch
import io
import json
import os
import re
import tarfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...writing.text import get_logger
from ..files import open_files
from ..source import BadClipError
from ..text import decoded, first_text, json_lines, printable
from .videos import VIDEO_SUFFIXES, VideoSource

logger = get_logger(__name__)

_MOST_LABEL = 1 << 20  # bytes
_NAME = 100  # bytes of a header that hold the (beginning of the) name
_PACKED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip")


class ShardSource(VideoSource):
    """Uncompressed tar shards of `{key}.json` (or `.txt`) and `{key}.webm` (or `.mp4`, …).

    `index.jsonl` beside the shards, as `lawm-hf convert` writes it, says where each clip is.
    Without it every shard is looked through once; a remote set is downloaded for that.

    Args:
        pattern: `DIR/train-*.tar`, or `hf://datasets/user/name[@revision]/train-*.tar`; without a
            name of files, all below the folder.
    """

    INDEX = "index.jsonl"

    def __init__(self, pattern: str):
        is_named = re.search(r"[*?\[]|\.\w+$", pattern)
        whole = Path(pattern).expanduser().is_dir() or not is_named
        folder, _, glob = (f"{pattern}/*.tar" if whole else pattern).rpartition("/")
        self.store = open_files(folder or ".")
        shards = _match(self.store.list("", ""), glob, folder or "this folder")
        rows = self._read_index(shards)
        if not rows:
            raise ValueError(
                f"Shards must hold videos ({' '.join(VIDEO_SUFFIXES)}), but in the {len(shards)} "
                f"of {pattern} there is none, or they are damaged."
            )
        self._rows = [(r["shard"], r["key"], r["offset"], r["size"]) for r in rows]
        self._changes = {clip: r["tasks"] for clip, r in enumerate(rows) if r.get("tasks")}
        super().__init__(f"wds:{pattern}", [r["task"] for r in rows])
        if self.store.is_remote:
            self.files = np.unique([r["shard"] for r in rows], return_inverse=True)[1]

    def _read_index(self, shards: list[str]) -> list[dict[str, Any]]:
        wanted = set(shards)
        try:
            rows = json_lines(self.store.fetch(self.INDEX).read_bytes())
            rows = [row for row in rows if row["shard"] in wanted]
            for row in rows:  # all there, and of their kinds
                row |= {"offset": int(row["offset"]), "size": int(row["size"])}
                row |= {"key": str(row["key"]), "task": str(row["task"])}
                row |= {"tasks": _changes(row)}
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            logger.warning("%s of %s is damaged: %s", self.INDEX, self.store.root, error)
            rows = []
        except OSError:
            rows = []
        new = [shard for shard in shards if shard not in {row["shard"] for row in rows}]
        rows += [row for shard in new for row in index_shard(self.store.fetch(shard), shard)]
        return sorted(rows, key=lambda row: row["shard"]) if new else rows

    def tasks(self, clip: int) -> tuple[str, ...]:
        """See `Source.tasks`."""
        changes = self._changes.get(clip, [])
        return tuple(dict.fromkeys((self.task(clip), *(task for _, task in changes))))

    def task_at(self, clip: int, frame: int) -> str:
        """The one that the label's `tasks` gives to this frame, if it has those."""
        begun = [task for first, task in self._changes.get(clip, []) if first <= frame]
        return begun[-1] if begun else self.task(clip)

    def clip_name(self, clip: int) -> str:
        """`78687 in train-00003.tar`."""
        return printable(f"{self._rows[clip][1]} in {self._rows[clip][0]}")

    def open(self, clip: int) -> BinaryIO:
        """See `VideoSource.open`."""
        shard, key, offset, size = self._rows[clip]
        with self.store.fetch(shard).open("rb") as file:
            left = os.fstat(file.fileno()).st_size - offset
            if offset < 0 or size < 0 or size > left:
                raise BadClipError(f"the shard ends {size - left} bytes early")
            file.seek(max(0, offset - tarfile.BLOCKSIZE))
            name = file.read(tarfile.BLOCKSIZE)[:_NAME].rstrip(b"\0").rpartition(b".")[0]
            if key.isascii() and len(key) < _NAME - 10 and name != key.encode():
                raise BadClipError(f"{self.INDEX} is of other shards than {shard}: delete it")
            file.seek(offset)
            return io.BytesIO(file.read(size))


def _match(files: list[str], glob: str, folder: str) -> list[str]:
    """The tar files among these that a pattern means."""
    tars = [file for file in files if file.endswith(".tar")]
    found = [tar for tar in tars if tar == glob or fnmatch.fnmatch(tar, glob)]
    packed = [f for f in files if f.lower().endswith(_PACKED) and f.rpartition(".")[0] not in tars]
    packed = [f for f in packed if fnmatch.fnmatch(f, glob) or fnmatch.fnmatch(f, f"{glob}.*")]
    if packed:
        raise ValueError(
            f"Shards are read at any place, so they must be tar files without compression, got "
            f"{packed[0]} in {folder}. Unpack them (`gunzip`, `zstd -d`) to `.tar`."
        )
    if not found:
        there = f"there are {', '.join(tars[:3])}" if tars else "there is no .tar"
        raise FileNotFoundError(
            f"No file matches {glob} in {folder}: {there}. `*` stands for any letters; "
            "{000..009} is not known here."
        )
    return found


class _Bounded(io.FileIO):
    """A file of which no more is read than is there: a tar declares sizes of its own."""

    def read(self, size: int | None = -1) -> bytes:  # type: ignore[override]
        left = os.fstat(self.fileno()).st_size - self.tell()
        return super().read(left if size is None or size < 0 else min(size, max(left, 0)))


def index_shard(path: Path, shard: str) -> list[dict[str, Any]]:
    """Where the videos of a shard lie, with their instructions.

    A sample is what shares a path without its suffix, in capitals or not; a label also serves all
    videos of its name up to the first dot (`1.json` for `1.left.mp4`, as WebDataset has it). A
    shard that is cut short yields what comes before the cut; the rest is named in the log.
    """
    videos: dict[str, tuple[int, int]] = {}
    twice = 0
    labels: dict[str, dict[str, Any]] = {}
    try:
        with _Bounded(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                key, dot, suffix = member.name.rpartition(".")
                suffix = dot + suffix.lower()
                if key.rpartition("/")[2].startswith("."):  # what an archiver of a Mac adds
                    continue
                if suffix in VIDEO_SUFFIXES:
                    twice += key in videos
                    videos[key] = member.offset_data, member.size
                elif suffix in (".json", ".txt"):
                    try:
                        label = _label(tar, member, suffix)
                        if label["task"] or key not in labels:  # metadata hide no text
                            labels[key] = label
                    except (ValueError, TypeError, AttributeError, RecursionError) as error:
                        logger.warning("Label %s of %s: %s", printable(member.name), shard, error)
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        logger.warning("Shard %s is damaged after %d clips: %s", shard, len(videos), error)
    if twice:
        logger.warning("Of %d videos of one name in %s the last counts.", twice + 1, shard)
    rows = []
    for key, (at, size) in videos.items():
        folder, slash, name = key.rpartition("/")
        shared = labels.get(folder + slash + name.partition(".")[0], {"task": ""})
        label = labels[key] if labels.get(key, {}).get("task") else shared
        rows.append({"shard": shard, "key": key, "offset": at, "size": size, **label})
    return rows


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str) -> dict[str, Any]:
    """Instruction of a clip, and with which frames others begin."""
    if not member.isreg() or member.size > _MOST_LABEL:
        raise ValueError(f"no file of at most {_MOST_LABEL} bytes")
    file = tar.extractfile(member)
    content = file.read(_MOST_LABEL) if file else b""
    if suffix == ".txt":
        return {"task": decoded(content).strip()}
    row = json.loads(content)
    if isinstance(row, str):
        return {"task": row}
    fields = [first_text(row.get(k)) for k in ("label", "task", "text", "caption")]
    task = next(filter(None, fields), "")
    changes = _changes(row)
    return {"task": task, "tasks": changes} if changes else {"task": task}


def _changes(row: dict[str, Any]) -> list[tuple[int, str]]:
    """From which frame on which instruction holds, where `lawm-hf convert` has noted that."""
    found = row.get("tasks")
    found = found if isinstance(found, list) else []
    pairs = [pair for pair in found if isinstance(pair, list) and len(pair) == 2]
    return sorted((first, str(task)) for first, task in pairs if isinstance(first, int))
