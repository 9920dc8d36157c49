# SPDX-License-Identifier: Apache-2.0
"""What a source is: a table of clips, and how to read one. One format, one subclass, one file."""

import copy
import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..writing.atomic import read_json, write_text_atomic
from .bad_clips import BadClipError, BadClips
from .statistics import LARGEST, statistics, warn_of_outliers

Resize = Literal["squash", "crop"]


@dataclass(frozen=True)
class Features:
    """What the clips of a source hold. Sizes are 0 where there is none."""

    fps: float
    cameras: tuple[str, ...]
    state_size: int = 0
    action_size: int = 0


class Source(ABC):
    """A table of clips (episodes), read at random.

    A clip is a number in the whole table; `clips` are those selected. Subclasses set the
    attributes, and read by number.

    Attributes:
        name: The spec that names the source, without options.
        features: What its clips hold.
        clips: Selected clip numbers, `(num_clips,)`.
        lengths: Frames of each clip of the whole table, or None if only opening a clip tells.
        files: For each clip of the whole table the number of the file it lies in, if reading is
            cheaper file by file (remote sets and tar shards); else None.
        chunk_size: Actions `N` that each frame holds, a whole chunk, as `lawm-hf label` writes
            them; None where a frame has one action, and a chunk is that of the frames that follow.
    """

    name: str
    features: Features
    clips: np.ndarray
    lengths: np.ndarray | None = None
    files: np.ndarray | None = None
    chunk_size: int | None = None

    @property
    def commit(self) -> str | None:
        """At which a set on the Hub is read."""
        return getattr(getattr(self, "store", None), "commit", None)

    @abstractmethod
    def clip_name(self, clip: int) -> str:
        """What a log message calls the clip; the same on every machine."""

    @abstractmethod
    def task(self, clip: int) -> str:
        """Its (first) instruction; may be empty."""

    def tasks(self, clip: int) -> tuple[str, ...]:
        """All its instructions, the first one first."""
        return (self.task(clip),)

    def task_at(self, clip: int, frame: int) -> str:
        """The instruction of a window that starts at this frame."""
        return self.task(clip)

    def times(self, clip: int) -> np.ndarray | None:
        """Seconds of each frame, `(length,)`, if the clip's rate varies; else None."""
        return None

    @abstractmethod
    def decode(
        self, clip: int, camera: str, indices: np.ndarray, size: int, resize: Resize
    ) -> np.ndarray:
        """Decode frames.

        Args:
            clip: Clip number.
            camera: One of `cameras_of(clip)`.
            indices: Frame numbers within the clip, ascending and without repeats, `(n,)`.
            size: Side of the square result in pixels.
            resize: See `WindowSpec`.

        Returns:
            RGB, `(n, 3, size, size)` uint8.

        Raises:
            Exception: Whatever the format raises on a damaged file; the stream skips and counts.
        """

    def reopen(self) -> None:  # noqa: B027
        """Forget open files. A forked process must: it shares their read positions with others."""

    def length(self, clip: int) -> int:
        """Frames in the clip."""
        assert self.lengths is not None, "a source without a table of lengths overrides `length`"
        return int(self.lengths[clip])

    def fps(self, clip: int) -> float:
        """Frames per second of the clip."""
        return self.features.fps

    def cameras_of(self, clip: int) -> tuple[str, ...]:
        """Cameras that this clip has: all, unless the format says otherwise."""
        return self.features.cameras

    def low_dim(self, clip: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """State `(T, P)` and actions `(T, A)` of the whole clip, float32, or None.

        With a `chunk_size` actions are `(T, N, A)`.
        """
        return None, None

    def sound_low_dim(self, clip: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """`low_dim`, if it is sound.

        Raises:
            BadClipError: If numbers are missing, too many or not finite; or whatever the format
                raises.
        """
        steps = () if self.chunk_size is None else (self.chunk_size,)
        shapes = (self.features.state_size,), (*steps, self.features.action_size)
        values = self.low_dim(clip)
        for name, shape, found in zip(("state", "actions"), shapes, values, strict=True):
            if found is None:
                continue
            if found.shape[1:] != shape or not len(found):
                wanted = ", ".join(map(str, shape))
                raise BadClipError(f"{name} should have shape (T, {wanted}), got {found.shape}")
            if not (np.abs(found) < LARGEST).all():
                raise BadClipError(f"{name} not finite, or beyond {LARGEST:g}")
        state, actions = (None if v is None else v.astype(np.float32, copy=False) for v in values)
        return state, actions

    def stats(self, max_clips: int = 5000) -> dict[str, dict[str, np.ndarray]]:
        """Statistics of `state`, each `(P,)`, and `actions`, `(A,)`, over the selected clips.

        At most `max_clips` evenly spaced clips are read; bad ones are left out, and named.

        Raises:
            RuntimeError: If too many are bad.
        """
        stride, bad = max(1, -(-len(self.clips) // max_clips)), BadClips(self)
        present: dict[str, list[np.ndarray]] = {"state": [], "actions": []}
        for clip in self.clips[::stride].tolist():
            with bad.skipped(clip):
                for name, values in zip(present, self.sound_low_dim(clip), strict=True):
                    if values is not None:
                        present[name].append(values.reshape(-1, values.shape[-1]))
        found = {k: statistics(np.concatenate(v)) for k, v in present.items() if v}
        for name, values in found.items():
            warn_of_outliers(f"{name} of {self.name}", values)
        return found

    def select(
        self,
        *,
        episodes: str | None = None,
        demonstrations: int | None = None,
        fraction: float | None = None,
        subset_seed: int = 0,
        manifest: str | None = None,
    ) -> "Source":
        """A view of fewer clips; the choices apply in the order of the arguments.

        Args:
            episodes: Python slice of clip positions, `"10:20"` or `":100"`.
            demonstrations: The first k clips, balanced over the tasks: one of each, then again.
            fraction: Share in (0, 1]: a seeded random subset, in table order.
            subset_seed: Seed of that subset.
            manifest: A JSON file that names the chosen clips. If it exists, they are taken, and
                nothing is drawn; otherwise it is written.

        Raises:
            ValueError: If nothing, or less than asked, would remain.
        """
        clips = self.clips
        if manifest is not None and Path(manifest).is_file():
            return self._with(self._read_manifest(Path(manifest)))
        if episodes is not None:
            clips = clips[parse_slice(episodes)]
        if demonstrations is not None:
            if not 1 <= demonstrations <= len(clips):
                raise ValueError(
                    f"`demonstrations` must lie in 1..{len(clips)}, the clips of {self.name}, got "
                    f"{demonstrations}."
                )
            clips = clips[first_of_each([self.task(int(c)) for c in clips], demonstrations)]
        if fraction is not None:
            if not 0 < fraction <= 1:
                raise ValueError(f"`fraction` must lie in (0, 1], got {fraction}.")
            count = max(1, round(fraction * len(clips)))
            rng = np.random.Generator(np.random.Philox(key=subset_seed))
            clips = clips[np.sort(rng.permutation(len(clips))[:count])]
        if len(clips) == 0:
            raise ValueError(
                f"The selection leaves no clip of the {len(self.clips)} of {self.name}."
            )
        if manifest is not None:
            names = [self.clip_name(int(c)) for c in clips]
            content = {"source": self.name, "fraction": fraction, "subset_seed": subset_seed}
            Path(manifest).parent.mkdir(parents=True, exist_ok=True)
            write_text_atomic(manifest, json.dumps({**content, "clips": names}, indent=1))
        return self._with(clips)

    def hold_out(self, share: float) -> tuple["Source", "Source | None"]:
        """Views of the clips to train on, and of others to judge on: `share` of all, 5 to 300.

        They are chosen by a hash of their names, so they are the same in every session. Of fewer
        than 20 clips it is at most a quarter, and none of fewer than 8.
        """
        total = len(self.clips)
        count = min(300, max(round(share * total), min(5, total // 4))) if share else 0
        if count < 2:
            return self, None
        names = [os.fsencode(self.clip_name(int(clip))) for clip in self.clips]
        order = np.argsort([hashlib.sha256(name).hexdigest() for name in names], kind="stable")
        chosen = np.isin(np.arange(len(names)), order[:count])
        return self._with(self.clips[~chosen]), self._with(self.clips[chosen])

    def _with(self, clips: np.ndarray) -> "Source":
        chosen = copy.copy(self)
        chosen.clips = clips
        return chosen

    def _read_manifest(self, manifest: Path) -> np.ndarray:
        names = read_json(manifest, dict).get("clips")
        if not (isinstance(names, list) and names and all(isinstance(n, str) for n in names)):
            raise ValueError(f"{manifest} must name its clips in a list `clips`. Delete it.")
        number = {self.clip_name(int(clip)): clip for clip in self.clips}
        missing = [name for name in names if name not in number]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(names)} clips of {manifest} are not in {self.name}, the "
                f"first is {missing[0]}."
            )
        return np.array([number[name] for name in names], np.int64)

    def fingerprint(self) -> str:
        """Hash of what the order of samples depends on: names and lengths of the selected clips."""
        digest = hashlib.sha256(f"{self.features}".encode())
        for clip in self.clips:
            digest.update(os.fsencode(self.clip_name(int(clip))) + b"\n")  # names may be no UTF-8
        if self.lengths is not None:
            digest.update(np.ascontiguousarray(self.lengths[self.clips], np.int64).tobytes())
        return digest.hexdigest()[:16]


def nearest_frames(times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Numbers of the frames nearest to the seconds wanted.

    Args:
        times: Seconds of all frames, ascending, `(T,)`.
        wanted: Seconds, `(n,)`.
    """
    after = np.clip(np.searchsorted(times, wanted), 1, len(times) - 1)
    return after - (wanted - times[after - 1] < times[after] - wanted)


def first_of_each(tasks: Sequence[str], count: int) -> np.ndarray:
    """Positions, ascending, of the first `count` items when the tasks take turns."""
    seen: dict[str, int] = {}
    turns = np.empty(len(tasks), np.int64)
    for i, task in enumerate(tasks):
        turns[i] = seen[task] = seen.get(task, -1) + 1
    return np.sort(np.argsort(turns, kind="stable")[:count])


def parse_slice(text: str) -> slice:
    """`"10:20"` → `slice(10, 20)`; a bare `"20"` means the first 20."""
    parts = text.split(":")
    try:
        numbers = [int(p) if p else None for p in parts]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 2:
        raise ValueError(f"`episodes` must be like `10:20`, `:100` or `100`, got {text!r}.")
    return slice(numbers[0]) if len(numbers) == 1 else slice(*numbers)


def pick_camera(wanted: str, cameras: Sequence[str]) -> str:
    """The camera whose key is `wanted` or ends in `.wanted`.

    Raises:
        ValueError: If there is none, naming those there are.
    """
    found = [c for c in cameras if c == wanted or c.rsplit(".", 1)[-1] == wanted]
    if len(found) != 1:
        what = "More than one" if found else "No"
        raise ValueError(f"{what} camera `{wanted}` among {', '.join(cameras) or 'none'}.")
    return found[0]
