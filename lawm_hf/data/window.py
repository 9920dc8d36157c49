# SPDX-License-Identifier: Apache-2.0
"""What one training sample is: x_t, the frames or actions that follow it, and the instruction."""

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class WindowSpec:
    """The window of time, and the form in which it is wanted.

    Args:
        chunk_size: Steps `N` that follow frame x_t.
        image_size: Side `S` of the square images, in pixels.
        frame_interval_s: Seconds between the frames of a window, the same for every source, so
            that sources of 5 to 30 Hz mix meaningfully; the nearest stored frame is taken. None
            takes the frames as stored.
        resize: `"squash"` ignores the aspect ratio, as the authors do; `"crop"` keeps the centre.
        views: Camera names, the main one first; the last part of a key is enough (`"front"` for
            `observation.images.front`). None takes all the source has.
        image_views: The policy sees only this many of the views, the first ones; None for all.
        with_frames: Load x_t … x_{t+N} of the main camera.
        frame_views: Load them of this many of the views, the first ones.
        with_frame_states: Load the robot's state beside each of them.
        with_actions: Load the N actions at t … t+N-1, at the source's own rate; or the chunk of
            frame t, where each frame holds one.
        with_state: Load the robot's state at t, if the source has one.
        max_start: Last frame of an episode at which a window may start.
    """

    chunk_size: int = 10
    image_size: int = 128
    frame_interval_s: float | None = None
    resize: Literal["squash", "crop"] = "squash"
    views: tuple[str, ...] | None = None
    image_views: int | None = None
    with_frames: bool = False
    frame_views: int = 1
    with_frame_states: bool = False
    with_actions: bool = False
    with_state: bool = True
    max_start: int | None = None

    def __post_init__(self):
        if self.chunk_size < 1 or self.image_size < 1:
            raise ValueError(
                f"`chunk_size` and `image_size` must be at least 1, got {self.chunk_size} and "
                f"{self.image_size}."
            )
        if self.frame_views < 1 or self.image_views == 0:
            raise ValueError(
                f"`frame_views` and `image_views` must be at least 1, got {self.frame_views} and "
                f"{self.image_views}."
            )
        if self.resize not in ("squash", "crop"):
            raise ValueError(f'`resize` must be "squash" or "crop", got {self.resize!r}.')
        if self.frame_interval_s is not None and self.frame_interval_s <= 0:
            raise ValueError(f"`frame_interval_s` must be positive, got {self.frame_interval_s}.")
        if self.with_frames and self.with_actions and self.frame_interval_s is not None:
            raise ValueError(
                "Frames and actions of one window must be of one rate, but `frame_interval_s` "
                f"resamples the frames ({self.frame_interval_s} s). Leave it None, or load only "
                "one of the two."
            )

    def frame_offsets(self, fps: float) -> np.ndarray:
        """Offsets of the N+1 frames from x_t, in stored frames.

        Raises:
            ValueError: If the source is too slow: frames would repeat, and a repeated frame
                teaches that nothing moves.
        """
        steps = np.arange(self.chunk_size + 1)
        if self.frame_interval_s is None:
            return steps
        if self.frame_interval_s * fps < 0.99:
            raise ValueError(
                f"`frame_interval_s` {self.frame_interval_s} is shorter than the time between two "
                f"frames of a source of {fps:g} frames per second. Use at least {1 / fps:.4g}."
            )
        return np.floor(steps * self.frame_interval_s * fps + 0.5).astype(np.int64)

    def num_starts(self, lengths: np.ndarray, fps: float) -> np.ndarray:
        """Windows in clips of this many frames; with frames, x_{t+1} must exist too."""
        counts = lengths - int(self.frame_offsets(fps)[1]) if self.with_frames else lengths
        if self.max_start is not None:
            counts = np.minimum(counts, self.max_start + 1)
        return np.maximum(counts, 0)
