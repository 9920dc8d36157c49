# SPDX-License-Identifier: Apache-2.0
"""A part of a conversion: clips that are read whole, then written to files of one number."""

import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..writing.episode import Episode, byte_histogram, save_episodes
from ..writing.lerobot import VIDEO_PATH
from ..writing.text import get_logger
from ..writing.video import VideoWriter
from .formats.videos import VideoSource
from .source import BadClipError, Resize, Source, nearest_frames

logger = get_logger(__name__)

_STATE, _ACTION = "observation.state", "action"


class Columns(Protocol):
    """What a conversion adds to each frame: picklable, and its `repr` says whose they are."""

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """For each column, LeRobot's `dtype`, `shape` and `names`."""
        ...

    def __call__(self, source: Source, clip: int, frames: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of the frames numbered `frames`, `(T,)`: `(T, *shape)` float32 each."""
        ...


@dataclass(frozen=True)
class Conversion:
    """How to convert.

    Args:
        image_size: Side of the square pictures, even. None copies video files as they are.
        resize: See `WindowSpec`.
        keyframe_interval: Frames from one keyframe to the next: the smaller, the cheaper a window.
        crf: Quality of H.264, 0 (lossless) to 51.
        fps: Frames per second of the result: at each time the nearest frame. None keeps the frames
            and their times, which a LeRobot set can hold only if all are of one rate.
        clips_per_part: Clips in one shard, or one mp4. 1000 clips of Something-Something are 90 MB:
            resuming a remote shard costs at most one download of it.
        columns: Further columns of a LeRobot set.
    """

    image_size: int | None = None
    resize: Resize = "squash"
    keyframe_interval: int = 8
    crf: int = 20
    fps: float | None = None
    clips_per_part: int = 1000
    columns: Columns | None = field(default=None, repr=False)

    def __post_init__(self):
        if self.image_size is not None and (self.image_size < 2 or self.image_size % 2):
            raise ValueError(f"`image_size` must be even for H.264, got {self.image_size}.")
        if self.clips_per_part < 1:
            raise ValueError(f"`clips_per_part` must be at least 1, got {self.clips_per_part}.")

    def frames(self, source: Source, clip: int) -> np.ndarray:
        """Numbers of the frames to write, ascending, repeats allowed, `(T,)`."""
        length, times = source.length(clip), source.times(clip)
        if self.fps is None or (times is None and same_rate(source.fps(clip), self.fps)):
            return np.arange(length)
        rate = source.fps(clip)
        end = (length - 1) / rate if times is None else times[-1]
        steps = np.arange(int(end * self.fps + 0.5) + 1)
        if times is not None:
            return nearest_frames(times, steps / self.fps)
        counted = np.floor(steps * (1 / self.fps) * rate + 0.5).astype(np.int64)  # as windows do
        return np.minimum(counted, length - 1)

    def read(self, source: Source, clip: int, camera: str, frames: np.ndarray) -> np.ndarray:
        """Frames of a clip, by their numbers, `(T, S, S, 3)` uint8."""
        assert self.image_size is not None, "frames are only decoded to be resized"
        indices, places = np.unique(frames, return_inverse=True)
        pictures = source.decode(clip, camera, indices, self.image_size, self.resize)
        return pictures.transpose(0, 2, 3, 1)[places]

    def video(self, file: Any, fps: float, varies: bool = False) -> VideoWriter:
        """A video of this quality."""
        interval = self.keyframe_interval
        return VideoWriter(file, fps, crf=self.crf, keyframe_interval=interval, varies=varies)


class ShardPart:
    """A tar of `{clip}.json` and a video each."""

    PATH = "train-{}.tar"

    def __init__(self, source: Source, out: Path, name: str, how: Conversion):
        self.partial, self.path = out / f".parts/{name}.tar", out / self.PATH.format(name)
        self.tar = tarfile.open(self.partial, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    @staticmethod
    def read(source: Source, clip: int, how: Conversion) -> dict[str, bytes]:
        """The files of a clip, by suffix."""
        frames = how.frames(source, clip)
        tasks = [source.task_at(clip, frame) for frame in frames.tolist()]
        label: dict[str, Any] = {"label": tasks[0], "name": source.clip_name(clip)}
        if len(set(tasks)) > 1:  # from which frame on which
            label["tasks"] = [
                [n, task] for n, task in enumerate(tasks) if not n or task != tasks[n - 1]
            ]
        if how.image_size is None:
            assert isinstance(source, VideoSource), "checked by `write_shards`"
            source.length(clip)  # raises if it is no video
            file = source.open(clip)
            suffix = file.suffix[1:].lower() if isinstance(file, Path) else "webm"
            data = file.read_bytes() if isinstance(file, Path) else file.read()
        else:
            suffix, buffer = "mp4", io.BytesIO()
            times = source.times(clip) if how.fps is None else None
            video = how.video(buffer, how.fps or source.fps(clip), varies=times is not None)
            video.add(how.read(source, clip, source.features.cameras[0], frames), times)
            video.close()
            data = buffer.getvalue()
        return {"json": json.dumps(label).encode(), suffix: data}

    def add(self, clip: int, files: dict[str, bytes]) -> None:
        """Write a clip."""
        for suffix, content in files.items():
            member = tarfile.TarInfo(f"{clip:08d}.{suffix}")
            member.size = len(content)
            self.tar.addfile(member, io.BytesIO(content))

    def close(self) -> None:
        """Finish the files under their own names."""
        self.tar.close()
        self.partial.replace(self.path)


class LeRobotPart:
    """One mp4 per camera, and the episodes without their pictures."""

    PATH = ".parts/{}.safetensors"

    def __init__(self, source: Source, out: Path, name: str, how: Conversion):
        assert how.fps is not None, "set by `write_lerobot`"
        self.fps, self.how, self.out, self.name = how.fps, how, out, name
        self.videos: dict[Path, VideoWriter] = {}
        self.episodes: list[Episode] = []

    @staticmethod
    def read(source: Source, clip: int, how: Conversion) -> tuple[Episode, dict[str, np.ndarray]]:
        """A clip, and its frames by LeRobot's names of the cameras."""
        numbers = how.frames(source, clip)
        tasks = [source.task_at(clip, number) for number in numbers.tolist()]
        episode = Episode(tasks[0], len(tasks), tasks=tasks if len(set(tasks)) > 1 else [])
        state, actions = source.low_dim(clip)
        values = {_STATE: state, _ACTION: actions}
        is_retimed = not np.array_equal(numbers, np.arange(source.length(clip)))
        for name, size in vector_sizes(source).items():
            if is_retimed and source.times(clip) is not None:
                raise BadClipError(
                    f"its rate varies, and {name} belongs to the frames as they are: leave it out "
                    "(`,action=,state=` of a LeRobot set), or write the times of the rows again"
                )
            found, wanted = values[name], (episode.length, size)
            if found is None or found.shape != wanted or not np.isfinite(found).all():
                raise BadClipError(f"{name} is not finite numbers of shape {wanted}")
            episode.vectors[name] = found.astype(np.float32)
        if how.columns is not None:
            episode.vectors |= how.columns(source, clip, numbers)
        cameras = source.features.cameras
        frames = {camera_key(c): how.read(source, clip, c, numbers) for c in cameras}
        for key, pictures in frames.items():
            episode.histograms[key] = np.sum([byte_histogram(p) for p in pictures], axis=0)
        return episode, frames

    def add(self, clip: int, content: tuple[Episode, dict[str, np.ndarray]]) -> None:
        """Write a clip."""
        for camera, frames in content[1].items():
            place = {"video_key": camera, "chunk_index": 0, "file_index": int(self.name)}
            path = self.out / VIDEO_PATH.format(**place)
            if path not in self.videos:
                path.parent.mkdir(parents=True, exist_ok=True)
                self.videos[path] = self.how.video(str(path.with_suffix(".partial")), self.fps)
            self.videos[path].add(frames)
        self.episodes.append(content[0])

    def close(self) -> None:
        """Finish the files under their own names."""
        for path, video in self.videos.items():
            video.close()
            path.with_suffix(".partial").replace(path)
        save_episodes(self.episodes, self.out / self.PATH.format(self.name))


def check_place(source: Source, out: Path) -> None:
    """Refuse a folder in which something would be replaced, and name one of the source."""
    names = [name for name in ("data", "meta", "videos", "index.jsonl") if (out / name).exists()]
    taken = [*names, *(path.name for path in out.glob(ShardPart.PATH.format("*")))]
    if taken:
        raise ValueError(
            "A conversion replaces `data`, `meta`, `videos` and shards, so its folder must have "
            f"none before it begins, got {out} with {taken[0]}. Choose an empty folder."
        )
    place = Path(source.name.partition(":")[2].partition(",")[0]).expanduser()
    if place.is_dir() and place.resolve() == out.resolve():
        raise ValueError(
            f"A conversion must go to another folder than its source's, got {out} for both. Choose "
            "an empty one."
        )
    root = getattr(source, "root", None)
    if isinstance(source, VideoSource) and root and out.resolve().is_relative_to(root.resolve()):
        logger.warning(
            "%s lies in the folder of the videos, %s: the next time it is read as more of them.",
            *(out, root),
        )


def same_rate(fps: float, other: float) -> bool:
    """Whether two measured rates are one, to 1 %."""
    return abs(fps / other - 1) <= 0.01


def camera_key(camera: str) -> str:
    """LeRobot's name of a camera."""
    return camera if camera.startswith("observation.") else f"observation.images.{camera}"


def vector_sizes(source: Source) -> dict[str, int]:
    """Sizes of what clips hold besides pictures, by LeRobot's names."""
    sizes = {_STATE: source.features.state_size, _ACTION: source.features.action_size}
    return {name: size for name, size in sizes.items() if size}
