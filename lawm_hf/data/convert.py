# SPDX-License-Identifier: Apache-2.0
"""Rewrite any source for training: as tar shards, or as a LeRobot v3.0 set.

Both are made of parts that are written in parallel, each under another name until it is whole, so
that a run that was cut short goes on where it stopped. A clip that cannot be read is left out and
named in the note of its part; the next call tries it again.
"""

import copy
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..writing.atomic import read_json, run_lock, write_text_atomic
from ..writing.episode import load_episodes
from ..writing.executors import Executor, Task
from ..writing.lerobot import LeRobotWriter
from ..writing.text import get_logger
from ..writing.video import exact_rate
from .bad_clips import BadClipError, too_many_bad
from .formats.shards import ShardSource, index_shard
from .formats.videos import VideoSource
from .parts import Conversion as Conversion
from .parts import LeRobotPart, ShardPart, camera_key, check_place, same_rate, vector_sizes
from .source import Source

logger = get_logger(__name__)
_Kind = type[ShardPart] | type[LeRobotPart]


def write_shards(
    source: Source,
    out: str | Path,
    how: Conversion,
    executor: Executor | None = None,
    *,
    num_workers: int = 1,
) -> Path:
    """Write `train-*.tar` of `{key}.json` and a video each, and `index.jsonl`.

    Args:
        source: What to convert.
        out: Folder to write.
        how: How to convert.
        executor: Who writes the parts, each a task; this process by default.
        num_workers: Processes of this machine, where no executor is given.

    Returns:
        The folder; its spec is `wds:FOLDER/train-*.tar`.
    """
    out = Path(out)
    if how.image_size is None and not isinstance(source, VideoSource):
        raise ValueError(f"{source.name} has no video files to copy: pass `image_size`.")
    if how.fps is not None:
        if how.image_size is None:
            raise ValueError(
                f"Video files that are copied keep their frames, but `fps` is {how.fps:g}: pass "
                "`image_size`, too, or leave `fps` out."
            )
        _check_rates(source, _rates(source)[0], how.fps)
    if source.features.action_size or len(source.features.cameras) > 1:
        logger.warning(
            "Shards hold video of one camera, here %s, and instructions; what else %s has is left "
            "out. `--format lerobot` keeps it.",
            source.features.cameras[0],
            source.name,
        )
    _convert(ShardPart, source, out, how, executor or Executor(tasks=max(1, num_workers)))
    shards = sorted(out.glob("train-*.tar"))
    rows = [row for shard in shards for row in index_shard(shard, shard.name)]
    write_text_atomic(out / ShardSource.INDEX, "".join(json.dumps(row) + "\n" for row in rows))
    return out


def write_lerobot(
    source: Source,
    out: str | Path,
    how: Conversion,
    executor: Executor | None = None,
    *,
    num_workers: int = 1,
) -> Path:
    """Write a LeRobot v3.0 set with all cameras that every clip has, states and actions.

    The arguments are those of `write_shards`.

    Returns:
        The folder; its spec is `lerobot:FOLDER`.
    """
    out, source = Path(out), copy.copy(source)
    if how.image_size is None:
        raise ValueError("A LeRobot set has pictures of one size: pass `image_size`.")
    cameras, fps = _common_cameras(source), _common_rate(source, how.fps)
    source.features, how = replace(source.features, cameras=cameras), replace(how, fps=fps)
    _convert(LeRobotPart, source, out, how, executor or Executor(tasks=max(1, num_workers)))
    shape, names = [how.image_size, how.image_size, 3], ["height", "width", "channels"]
    info = {"video.fps": fps, "video.codec": "h264", "video.pix_fmt": "yuv420p"}
    video = {"dtype": "video", "shape": shape, "names": names, "info": info}
    features: dict[str, Any] = {camera_key(c): video for c in cameras}
    for key, size in vector_sizes(source).items():
        features[key] = {"dtype": "float32", "shape": [size], "names": None}
    features |= how.columns.features if how.columns is not None else {}
    root = out / ".parts/dataset"
    shutil.rmtree(root, ignore_errors=True)
    writer = LeRobotWriter(root, features, (), fps, None)
    for path in sorted((out / ".parts").glob("*.safetensors")):
        writer.start_file(int(path.stem))
        for episode in load_episodes(path):
            writer.add(episode)
    writer.close()
    for name in ("data", "meta"):
        shutil.rmtree(out / name, ignore_errors=True)
        (root / name).rename(out / name)
    return out


def left_out(out: Path) -> list[str]:
    """The clips that were left out, each with its error."""
    notes = [read_json(path, dict) for path in sorted((out / ".parts").glob("*.json"))]
    return [line for note in notes for line in note.get("left_out", {}).values()]


def _convert(kind: _Kind, source: Source, out: Path, how: Conversion, executor: Executor) -> None:
    """Write every part that is not there yet."""
    if not (out / ".parts/job.json").is_file():
        check_place(source, out)
    clips, size, notes = source.clips.tolist(), how.clips_per_part, out / ".parts"
    parts = {f"{i // size:05d}": clips[i : i + size] for i in range(0, len(clips), size)}
    bad: dict[str, str] = {}
    num_seen = 0

    def look(name: str) -> None:
        nonlocal num_seen
        bad.update(read_json(notes / f"{name}.json", dict)["left_out"])
        num_seen += len(parts[name])
        _check_share(source, len(bad), num_seen, bad)
        bar.update(len(parts[name]))

    with run_lock(notes), tqdm(total=len(clips), unit="clip") as bar:
        _check_same_job(kind, source, out, how)
        todo = []
        for name in parts:
            if _is_done(kind, source, how, out, name):
                look(name)
            else:
                todo.append(name)
        write = partial(_write_part, kind, source, how, out)
        tasks = [Task(name, partial(write, name, parts[name])) for name in todo]
        executor.run([tasks], notes, on_end=lambda task: look(task.name))


def _write_part(
    kind: _Kind, source: Source, how: Conversion, out: Path, name: str, clips: list[int]
) -> None:
    """Write the clips that can be read; note the others, with what is wrong."""
    if _is_done(kind, source, how, out, name):  # By another process, meanwhile.
        return
    part: Any = kind(source, out, name, how)
    bad = {}
    for clip in clips:
        try:  # all of it, before any of it is written
            if not source.task(clip):
                raise BadClipError("no instruction")
            content = kind.read(source, clip, how)
        except Exception as error:
            bad[clip] = f"{source.clip_name(clip)}: {error}"
            continue
        part.add(clip, content)
    _check_share(source, len(bad), len(clips), bad)
    part.close()
    if bad:
        logger.warning("Left out %d clips of part %s.", len(bad), name)
    write_text_atomic(out / f".parts/{name}.json", json.dumps({"left_out": bad}))


def _check_share(source: Source, num_bad: int, num_seen: int, bad: Mapping[Any, str]) -> None:
    """Nothing is marked as done that lost more clips than chance explains."""
    if num_bad == len(source.clips) or too_many_bad(num_bad, num_seen):
        raise ValueError(
            f"{num_bad} of {num_seen} clips of {source.name} cannot be read, among them "
            f"{next(iter(bad.values()), '')}. Fix that and repeat the command: it continues."
        )


def _is_done(kind: _Kind, source: Source, how: Conversion, out: Path, name: str) -> bool:
    """Whether a part is there, and what it left out still cannot be read (a disk may be back)."""
    note = out / f".parts/{name}.json"
    if not note.is_file() or not (out / kind.PATH.format(name)).is_file():
        return False
    for clip in read_json(note, dict)["left_out"]:
        with suppress(Exception):
            kind.read(source, int(clip), how)
            return False
    return True


def _check_same_job(kind: _Kind, source: Source, out: Path, how: Conversion) -> None:
    """Refuse to go on with another source or other settings in the same folder."""
    job = {"clips": source.fingerprint(), "how": f"{kind.__name__} {how}"}
    job |= {"columns": repr(how.columns)} if how.columns is not None else {}
    path = out / ".parts/job.json"
    if not path.is_file():
        write_text_atomic(path, json.dumps(job))
    elif (begun := read_json(path)) != job:
        raise ValueError(
            f"{out} holds another conversion: {begun} was begun, now {job}. Choose an empty folder."
        )


def _common_rate(source: Source, wanted: float | None) -> float:
    """Frames per second of every clip, since a LeRobot set states one rate."""
    rates, varying = _rates(source)
    rate = exact_rate(wanted or float(np.median(list(rates.values()) or [source.features.fps])))
    odd = [clip for clip, fps in rates.items() if not same_rate(fps, float(rate))]
    if odd and wanted is None:
        slowest = float(exact_rate(min(rates.values())))
        raise ValueError(
            f"All clips of a LeRobot set are of one rate, but {len(odd)} of {len(rates)} are not "
            f"of {float(rate):g} frames per second, such as {source.clip_name(odd[0])} of "
            f"{rates[odd[0]]:g}. Pass `--fps {slowest:g}` to take the frames nearest to those "
            "times, take the clips of each rate for a set of their own, or use `lawm-hf convert "
            "--format shards`, which keeps the times of all frames."
        )
    if wanted is not None:
        _check_rates(source, rates, float(rate))
    if varying:
        logger.warning(
            "The rate of %d of %d clips varies, such as in %s: of these the frames nearest to %g "
            "per second are taken. `--format shards` keeps the times of all frames.",
            *(len(varying), len(rates), source.clip_name(varying[0]), float(rate)),
        )
    return rate.numerator if rate.denominator == 1 else float(rate)


def _rates(source: Source) -> tuple[dict[int, float], list[int]]:
    """Usual rates of the clips, and which of them vary."""
    rates, varying = {}, []
    for clip in source.clips.tolist():
        with suppress(Exception):  # a clip that does not open is left out later, and named
            rates[clip], times = source.fps(clip), source.times(clip)
            if times is not None:
                rates[clip] = float(1 / np.median(np.diff(times)))  # pauses do not count
                varying.append(clip)
    return rates, varying


def _check_rates(source: Source, rates: dict[int, float], fps: float) -> None:
    """Refuse a rate of which there are no frames, or no actions."""
    slow = [clip for clip, rate in rates.items() if rate < fps and not same_rate(rate, fps)]
    if slow:
        raise ValueError(
            f"`fps` must not exceed the rate of a clip, else frames repeat as if nothing moved, "
            f"got {fps:g}, and {len(slow)} of {len(rates)} clips are slower, such as "
            f"{source.clip_name(slow[0])} of {rates[slow[0]]:g}. Pass at most "
            f"{min(rates.values()):g}."
        )
    odd = [clip for clip, rate in rates.items() if not same_rate(rate, fps)]
    if odd and vector_sizes(source):
        raise ValueError(
            f"States and actions belong to the frames as recorded, so `fps` must be that of "
            f"{source.name}, {rates[odd[0]]:g}, got {fps:g}. Leave `fps` out."
        )


def _common_cameras(source: Source) -> tuple[str, ...]:
    """Cameras that the first clips all have."""
    sets = []
    for clip in source.clips[:100].tolist():
        with suppress(Exception):  # as above
            sets.append(set(source.cameras_of(clip)))
    common = tuple(c for c in source.features.cameras if all(c in s for s in sets))
    if not common:
        raise ValueError(
            f"A set needs a camera that every clip has, got none of {source.name}: it has "
            f"{', '.join(source.features.cameras) or 'no camera at all'}. Choose clips that share "
            "one (`,episodes=` or `,manifest=`)."
        )
    return common
