# SPDX-License-Identifier: Apache-2.0
"""Rewrite any source for training: as tar shards, or as a LeRobot v3.0 set.

Both are made of parts that are written in parallel, each under another name until it is whole, so
that a run that was cut short goes on where it stopped. A clip that cannot be read is left out and
named in a `.skipped` file of its part.
"""

import io
import json
import logging
import multiprocessing
import tarfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from tqdm import tqdm

from .formats.videos import ShardSource, VideoSource, index_shard
from .source import BadClipError, Resize, Source

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conversion:
    """How to convert.

    Args:
        image_size: Side of the square pictures, even. None copies video files as they are.
        resize: See `WindowSpec`.
        keyframe_interval: Frames from one keyframe to the next: the smaller, the cheaper a window.
        crf: Quality of H.264, 0 (lossless) to 51.
        clips_per_part: Clips in one shard, or one mp4. 1000 clips of Something-Something are 90 MB:
            resuming a remote shard costs at most one download of it.
    """

    image_size: int | None = None
    resize: Resize = "squash"
    keyframe_interval: int = 8
    crf: int = 20
    clips_per_part: int = 1000

    def __post_init__(self):
        if self.image_size is not None and (self.image_size < 2 or self.image_size % 2):
            raise ValueError(f"`image_size` must be even for H.264, got {self.image_size}.")


class VideoWriter:
    """One H.264 mp4, written clip by clip.

    Args:
        file: Path or buffer.
        fps: Frames per second.
        how: The quality.
    """

    def __init__(self, file: str | io.BytesIO, fps: float, how: Conversion):
        rate = Fraction(fps).limit_denominator(1001)
        if abs(round(fps) / fps - 1) < 0.01:  # times in milliseconds make 11.998 of 12
            rate = Fraction(round(fps))
        assert how.image_size is not None, "whoever encodes has chosen a size"
        self.container = av.open(file, "w", format="mp4")
        # Decoding costs the trainer: half as much without CABAC and deblocking, for 10 % of bytes.
        options = {"crf": str(how.crf), "preset": "fast", "tune": "fastdecode"}
        self.stream = self.container.add_stream("libx264", rate=rate, options=options)
        self.stream.pix_fmt, self.stream.gop_size = "yuv420p", how.keyframe_interval
        self.stream.height = self.stream.width = how.image_size

    def add(self, frames: np.ndarray) -> None:
        """Append frames `(n, 3, S, S)` uint8."""
        for frame in frames:
            picture = np.ascontiguousarray(frame.transpose(1, 2, 0))
            self.container.mux(
                self.stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
            )

    def close(self) -> None:
        """Finish the file."""
        self.container.mux(self.stream.encode())
        self.container.close()


def convert_parts(
    source: Source,
    out: Path,
    how: Conversion,
    write_part: Callable[[Source, list[int], Path, str, Conversion], None],
    num_workers: int,
) -> None:
    """Call `write_part` for every part that is not there yet."""
    out.mkdir(parents=True, exist_ok=True)
    _check_same_job(source, out, how)
    clips = source.clips.tolist()
    parts = [clips[i : i + how.clips_per_part] for i in range(0, len(clips), how.clips_per_part)]
    names = [f"{number:05d}" for number in range(len(parts))]
    todo = [(p, n) for p, n in zip(parts, names, strict=True) if not _marker(out, n).is_file()]
    if num_workers == 0:
        for part, name in tqdm(todo, unit="part", desc="converting"):
            write_part(source, part, out, name, how)
            _marker(out, name).touch()
        return
    # Spawned: the encoder's threads and the source's open files do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        jobs = [pool.submit(write_part, source, part, out, name, how) for part, name in todo]
        done = len(clips) - sum(len(part) for part, _ in todo)
        with tqdm(total=len(clips), initial=done, unit="clip", desc="converting") as bar:
            for (part, name), job in zip(todo, jobs, strict=True):
                job.result()
                _marker(out, name).touch()
                bar.update(len(part))


def _marker(out: Path, name: str) -> Path:
    folder = out / ".parts"
    folder.mkdir(exist_ok=True)
    return folder / f"{name}.done"


def _check_same_job(source: Source, out: Path, how: Conversion) -> None:
    """Refuse to go on with another source or other settings in the same folder."""
    job = {"clips": source.fingerprint(), "how": repr(how)}
    path = out / ".parts/job.json"
    path.parent.mkdir(exist_ok=True)
    if not path.is_file():
        path.write_text(json.dumps(job))
    elif json.loads(path.read_text()) != job:
        raise ValueError(
            f"{out} holds another conversion: {path.read_text()} was begun, now {json.dumps(job)}. "
            "Choose an empty folder."
        )


def read_whole(source: Source, clip: int, camera: str, how: Conversion) -> np.ndarray:
    """All frames of a clip, `(T, 3, S, S)` uint8."""
    assert how.image_size is not None, "frames are only decoded to be resized"
    indices = np.arange(source.length(clip))
    return source.decode(clip, camera, indices, how.image_size, how.resize)


def write_shards(source: Source, out: str | Path, how: Conversion, num_workers: int = 1) -> Path:
    """Write `train-*.tar` of `{key}.json` and a video each, and `index.jsonl`.

    Returns:
        The folder; its spec is `wds:FOLDER/train-*.tar`.
    """
    out = Path(out)
    if how.image_size is None and not isinstance(source, VideoSource):
        raise ValueError(f"{source.name} has no video files to copy: pass `image_size`.")
    convert_parts(source, out, how, _write_shard, num_workers)
    with (out / ShardSource.INDEX).open("w") as file:
        for shard in sorted(out.glob("train-*.tar")):
            for row in index_shard(shard, shard.name):
                file.write(json.dumps(row) + "\n")
    return out


def _write_shard(source: Source, clips: list[int], out: Path, name: str, how: Conversion) -> None:
    partial, skipped = out / f".parts/{name}.tar", []
    with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
        for clip in clips:
            try:
                suffix, data = _video_bytes(source, clip, how)
                label = {"label": source.task(clip), "name": source.clip_name(clip)}
                if not label["label"]:
                    raise BadClipError("no instruction")
            except Exception as error:
                skipped.append(f"{source.clip_name(clip)}: {error}")
                continue
            for ext, content in (("json", json.dumps(label).encode()), (suffix, data)):
                member = tarfile.TarInfo(f"{clip:08d}.{ext}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    note_skipped(out, name, skipped)
    partial.rename(out / f"train-{name}.tar")


def _video_bytes(source: Source, clip: int, how: Conversion) -> tuple[str, bytes]:
    if how.image_size is None:
        assert isinstance(source, VideoSource), "checked by `write_shards`"
        source.length(clip)  # raises if it is no video
        file = source.open(clip)
        if isinstance(file, Path):
            return file.suffix[1:].lower(), file.read_bytes()
        return "webm", file.read()
    buffer = io.BytesIO()
    video = VideoWriter(buffer, source.fps(clip), how)
    video.add(read_whole(source, clip, source.features.cameras[0], how))
    video.close()
    return "mp4", buffer.getvalue()


def note_skipped(out: Path, name: str, skipped: list[str]) -> None:
    """Name the clips of a part that were left out."""
    if skipped:
        (out / f".parts/{name}.skipped").write_text("\n".join(skipped) + "\n")
        logger.warning("Left out %d clips of part %s.", len(skipped), name)


def write_lerobot(source: Source, out: str | Path, how: Conversion, num_workers: int = 1) -> Path:
    """Write a LeRobot v3.0 set with all cameras that every clip has, states and actions.

    Returns:
        The folder; its spec is `lerobot:FOLDER`.
    """
    from .lerobot_meta import write_meta

    out = Path(out)
    if how.image_size is None:
        raise ValueError("A LeRobot set has pictures of one size: pass `image_size`.")
    convert_parts(source, out, how, _write_lerobot_part, num_workers)
    write_meta(source, out, how.image_size)
    return out


def _write_lerobot_part(
    source: Source, clips: list[int], out: Path, name: str, how: Conversion
) -> None:
    """One mp4 per camera for the clips of a part, and what `write_meta` needs of them."""
    skipped: list[str] = []
    rows: list[dict[str, Any]] = []
    low_dim: dict[str, np.ndarray] = {}
    videos: dict[str, tuple[Path, VideoWriter]] = {}
    for camera in common_cameras(source):
        path = out / f"videos/{camera_key(camera)}/chunk-000/file-{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        videos[camera] = partial, VideoWriter(str(partial), source.features.fps, how)
    for clip in clips:
        try:  # all of it, before any of it is written
            if not source.task(clip):
                raise BadClipError("no instruction")
            frames = {camera: read_whole(source, clip, camera, how) for camera in videos}
            state, actions = source.low_dim(clip)
        except Exception as error:
            skipped.append(f"{source.clip_name(clip)}: {error}")
            continue
        for camera, (_, video) in videos.items():
            video.add(frames[camera])
        rows.append({"clip": clip, "task": source.task(clip), "length": source.length(clip)})
        for key, values in (("state", state), ("actions", actions)):
            if values is not None:
                low_dim[f"{key}_{clip}"] = values
    for partial, video in videos.values():
        video.close()
        if rows:
            partial.rename(partial.with_suffix(".mp4"))
        else:
            partial.unlink()
    np.savez(out / f".parts/{name}.npz", **low_dim)  # type: ignore[arg-type]
    (out / f".parts/{name}.json").write_text(json.dumps(rows))
    note_skipped(out, name, skipped)


def common_cameras(source: Source) -> tuple[str, ...]:
    """Cameras that the first clips all have."""
    sets = [set(source.cameras_of(int(c))) for c in source.clips[:100]]
    return tuple(c for c in source.features.cameras if all(c in s for s in sets))


def camera_key(camera: str) -> str:
    """LeRobot's name of a camera."""
    return camera if camera.startswith("observation.") else f"observation.images.{camera}"
