# SPDX-License-Identifier: Apache-2.0
"""Reads windows of a source: decodes what they need of a clip, and cuts them out of it."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..writing.text import get_logger
from .bad_clips import BadClipError
from .source import Source, nearest_frames, pick_camera
from .window import WindowSpec

logger = get_logger(__name__)

Sample = dict[str, Any]


class WindowReader:
    """Reads windows of one source, and keeps decoded clips where that pays.

    Args:
        source: Where to read.
        window: What to read.
        with_state: Load the robot's state, if the source has one.
        cache_bytes: A source whose decoded frames take no more is kept in memory whole, clip by
            clip as they are first used.
        source_index: First number of `index`.
    """

    def __init__(
        self,
        source: Source,
        window: WindowSpec,
        *,
        with_state: bool = True,
        cache_bytes: int = 0,
        source_index: int = 0,
    ):
        self.source, self.window, self.source_index = source, window, source_index
        features = source.features
        cameras = (
            features.cameras
            if window.views is None
            else tuple(pick_camera(v, features.cameras) for v in window.views)
        )
        if not cameras:
            raise ValueError(f"{source.name} has no camera.")
        if len(set(cameras)) < len(cameras):
            raise ValueError(f"`views` must name each camera once, got {', '.join(cameras)}.")
        self.views = cameras[: window.image_views]
        self.frame_views = cameras[: window.frame_views] if window.with_frames else ()
        self.cameras = max(self.views, self.frame_views, key=len)
        wanted = max(window.image_views or 1, window.frame_views if window.with_frames else 1)
        if len(cameras) < wanted:
            raise ValueError(
                f"Windows of {wanted} views need as many cameras, but {source.name} has "
                f"{', '.join(cameras)}. Open it with more (`views=a+b`), or ask for fewer: "
                "`policy_views`, or the `num_views` of the world model."
            )
        if window.with_frame_states and not features.state_size:
            raise ValueError(
                f"`with_frame_states` needs the robot's state, but {source.name} has none. Give a "
                "source that has (the tabletop with `state=true`), or a world model without "
                "`state_size`."
            )
        if window.with_actions and not features.action_size:
            raise ValueError(
                f"`with_actions` needs actions, but {source.name} has none: it can only be used "
                "for pretraining."
            )
        if window.with_actions and source.chunk_size not in (None, window.chunk_size):
            raise ValueError(
                f"`chunk_size` must be {source.chunk_size}, the steps of the chunks in "
                f"{source.name}, got {window.chunk_size}."
            )
        if source.lengths is not None:
            window.frame_offsets(features.fps)  # raises now rather than at the first sample
        self.with_state = with_state and features.state_size > 0
        self.is_cached = self.decoded_bytes() <= cache_bytes
        self._cache: dict[tuple[int, str], np.ndarray] = {}

    def decoded_bytes(self) -> float:
        """Memory of all decoded frames; infinite if the lengths are unknown."""
        if self.source.lengths is None:
            return float("inf")
        frames = int(self.source.lengths[self.source.clips].sum())
        return frames * len(self.cameras) * 3 * self.window.image_size**2

    def num_starts(self, clip: int) -> int:
        """Windows in the clip."""
        length, fps, times = self.source.length(clip), self.source.fps(clip), self._times(clip)
        if times is not None and self.window.with_frames:
            interval = self.window.frame_interval_s or 0
            with_next = np.searchsorted(times, _end(times) - interval, "right")
            length = int(with_next) + int(self.window.frame_offsets(fps)[1])
        return int(self.window.num_starts(np.array(length), fps))

    def all_num_starts(self) -> np.ndarray | None:
        """Windows in each selected clip, if the lengths are known; one frame rate then holds."""
        if self.source.lengths is None:
            return None
        lengths = self.source.lengths[self.source.clips]
        return self.window.num_starts(lengths, self.source.features.fps)

    def frame_indices(self, clip: int, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Frame numbers `(N+1,)` of x_t … x_{t+N}, held at the end, and which are padding."""
        times, last = self._times(clip), self.source.length(clip) - 1
        if times is None:
            indices = start + self.window.frame_offsets(self.source.fps(clip))
            return np.minimum(indices, last), indices > last
        steps = np.arange(self.window.chunk_size + 1)
        wanted = times[start] + steps * (self.window.frame_interval_s or 0)
        return nearest_frames(times, wanted), wanted > _end(times)

    def _times(self, clip: int) -> np.ndarray | None:
        """Seconds of each frame, where counting frames would not keep the interval."""
        return None if self.window.frame_interval_s is None else self.source.times(clip)

    def decode(self, clip: int, starts: Sequence[int]) -> "DecodedClip":
        """Decode at once every frame that the windows at `starts` need.

        Raises:
            Exception: `BadClipError`, or whatever the format raises, if the clip is damaged there.
        """
        present = self.source.cameras_of(clip)
        if self.views[0] not in present:
            raise BadClipError(f"no main camera {self.views[0]}")
        if missing := [camera for camera in self.frame_views if camera not in present]:
            raise BadClipError(f"no camera {missing[0]}")
        frames = {}
        for camera in self.cameras:
            if camera not in present:
                continue
            needed = np.asarray(starts)
            if camera in self.frame_views:
                needed = np.concatenate([self.frame_indices(clip, s)[0] for s in starts])
            needed = np.unique(needed)
            if self.is_cached:
                needed, decoded = self._decode_whole(clip, camera)
            else:
                decoded = self._decode(clip, camera, needed)
            frames[camera] = needed, decoded
        state, actions = None, None
        wants_state = self.with_state or self.window.with_frame_states
        if wants_state or self.window.with_actions:
            state, actions = self.source.sound_low_dim(clip)
        if wants_state and (state is None or len(state) < self.source.length(clip)):
            raise BadClipError("the state ends before the frames")
        if self.window.with_actions and actions is None:
            raise BadClipError("no actions")
        return DecodedClip(frames, state, actions)

    def _decode(self, clip: int, camera: str, needed: np.ndarray) -> np.ndarray:
        return self.source.decode(clip, camera, needed, self.window.image_size, self.window.resize)

    def _decode_whole(self, clip: int, camera: str) -> tuple[np.ndarray, np.ndarray]:
        everything = np.arange(self.source.length(clip))
        if (clip, camera) not in self._cache:
            self._cache[clip, camera] = self._decode(clip, camera, everything)
        return everything, self._cache[clip, camera]

    def preload(self) -> None:
        """Fill the cache, if the source is kept in memory; damaged clips are left to the stream."""
        for clip in self.source.clips.tolist() if self.is_cached else ():
            for camera in set(self.cameras) & set(self.source.cameras_of(clip)):
                with suppress(Exception):
                    self._decode_whole(clip, camera)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}}  # gigabytes that another process can decode itself

    def sample(self, clip: int, start: int, decoded: "DecodedClip") -> Sample:
        """The window at frame `start`, out of decoded frames; see `lawm_hf.data`."""
        window, size, at = self.window, self.window.image_size, np.array([start])
        images = [
            decoded.take(camera, at)
            if camera in decoded.frames
            else np.zeros((1, 3, size, size), np.uint8)
            for camera in self.views
        ]
        sample: Sample = {
            "images": images[0] if len(images) == 1 else np.concatenate(images),
            "view_mask": np.array([camera in decoded.frames for camera in self.views]),
            "task": self.source.task_at(clip, start),
            "index": np.array([self.source_index, clip, start]),
        }
        if window.with_frames:
            indices, is_pad = self.frame_indices(clip, start)
            frames = [decoded.take(camera, indices) for camera in self.frame_views]
            sample["frames"] = frames[0] if len(frames) == 1 else np.stack(frames, 1)
            sample["frame_is_pad"] = is_pad
            if window.with_frame_states:
                assert decoded.state is not None, "`decode` has seen to it"
                sample["frame_states"] = decoded.state[indices]
        if self.with_state:
            assert decoded.state is not None, "`decode` has seen to it"
            sample["state"] = decoded.state[start]
        if window.with_actions:
            assert decoded.actions is not None, "`decode` has seen to it"
            if self.source.chunk_size is None:
                steps, last = start + np.arange(window.chunk_size), len(decoded.actions) - 1
                actions, is_pad = decoded.actions[np.minimum(steps, last)], steps > last
            else:
                actions, is_pad = decoded.actions[start], np.zeros(window.chunk_size, bool)
            sample["actions"], sample["action_is_pad"] = actions, is_pad
        return sample


def _end(times: np.ndarray) -> float:
    return times[-1] + (times[-1] - times[-2]) / 2  # until when the last frame is the nearest


@dataclass
class DecodedClip:
    """Decoded frames by camera, as (frame numbers, pixels), with state and actions."""

    frames: dict[str, tuple[np.ndarray, np.ndarray]]
    state: np.ndarray | None
    actions: np.ndarray | None

    def take(self, camera: str, indices: np.ndarray) -> np.ndarray:
        """Pixels `(n, 3, S, S)` of the frames `indices`: a view where they lie in a row."""
        numbers, pixels = self.frames[camera]
        first = int(numbers.searchsorted(indices[0]))
        in_a_row = slice(first, first + len(indices))
        if numbers[in_a_row].tolist() == indices.tolist():
            return pixels[in_a_row]
        positions = np.searchsorted(numbers, indices)
        assert (numbers[positions] == indices).all(), "a frame was not among those decoded"
        return pixels[positions]


def to_tensors(sample: Sample) -> Sample:
    """Arrays as tensors of their own, everything else as it is."""
    return {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in sample.items()}


def collate(samples: Sequence[Sample]) -> dict[str, Tensor | list[str]]:
    """Stack samples of arrays or tensors; `task` becomes a list of strings."""
    batch: dict[str, Tensor | list[str]] = {}
    for key, first in samples[0].items():
        values = [s[key] for s in samples]
        if isinstance(first, np.ndarray):
            batch[key] = torch.from_numpy(np.stack(values))
        else:
            batch[key] = torch.stack(values) if isinstance(first, Tensor) else values
    return batch


def open_readers(
    sources: Sequence[Source], window: WindowSpec, cache_bytes: int
) -> list[WindowReader]:
    """Readers whose samples stack: one number of views, and a state only if all have one alike."""
    state_sizes = {s.features.state_size for s in sources}
    if window.with_state and len(state_sizes) > 1:
        logger.warning("The sources' states have sizes %s: no state is loaded.", state_sizes)
    if window.with_frame_states and len(state_sizes) > 1:
        raise ValueError(
            f"Mixed sources need states of one size for `with_frame_states`, got {state_sizes}. "
            "Leave some out, or predict no states: a world model without `state_size`."
        )
    readers = [
        WindowReader(
            source,
            window,
            with_state=window.with_state and len(state_sizes) == 1,
            cache_bytes=cache_bytes,
            source_index=i,
        )
        for i, source in enumerate(sources)
    ]
    if len({len(r.views) for r in readers}) > 1:
        found = "; ".join(f"{r.source.name}: {', '.join(r.views)}" for r in readers)
        raise ValueError(
            f"Mixed sources need one number of views, got {found}. Choose with `views`, or in a "
            "spec with `views=a+b`."
        )
    names = [[camera.rsplit(".", 1)[-1] for camera in s.features.cameras] for s in sources]
    if window.views is None and any(
        name != names[0] and sorted(name) == sorted(names[0]) for name in names
    ):
        found = "; ".join(f"{s.name}: {', '.join(s.features.cameras)}" for s in sources)
        raise ValueError(
            f"Mixed sources need their views in one order, got {found}. Give it with `views`, or "
            "in the specs with `views=a+b`."
        )
    if window.with_actions and len({s.features.action_size for s in sources}) > 1:
        sizes = [s.features.action_size for s in sources]
        raise ValueError(f"Mixed sources need actions of one size, got {sizes}.")
    return readers
