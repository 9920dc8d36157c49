# SPDX-License-Identifier: Apache-2.0
"""H.264, the one way in which videos are written here."""

from collections.abc import Iterable
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np

_CLOCK = 90_000  # ticks per second of frames with times of their own, as MPEG has it


class VideoWriter:
    """One H.264 mp4 of pictures of one size.

    Args:
        file: Path or buffer.
        fps: Frames per second, see `exact_rate`.
        crf: Quality, 0 (lossless) to 51.
        keyframe_interval: Frames from one keyframe to the next: the smaller, the cheaper a window.
        varies: Each frame comes with its own time; `fps` is but their mean rate.
    """

    def __init__(
        self,
        file: str | BinaryIO,
        fps: float,
        *,
        crf: int = 20,
        keyframe_interval: int = 8,
        varies: bool = False,
    ):
        self.container = av.open(file, "w", format="mp4")
        # Decoding costs the trainer: half as much without CABAC and deblocking, for 10 % of bytes.
        options = {"crf": str(crf), "preset": "fast", "tune": "fastdecode"}
        self.stream = self.container.add_stream("libx264", rate=exact_rate(fps), options=options)
        if varies:
            self.stream.codec_context.time_base = Fraction(1, _CLOCK)
        self.is_sized = False
        self.stream.pix_fmt, self.stream.gop_size = "yuv420p", keyframe_interval

    def add(self, frames: Iterable[np.ndarray], times: np.ndarray | None = None) -> None:
        """Append pictures `(H, W, 3)` uint8, with their times if known; odd sides lose a line."""
        for number, frame in enumerate(frames):
            height, width = (side // 2 * 2 for side in frame.shape[:2])
            if not self.is_sized:  # PyAV's own size is 640 × 480, to which it would scale.
                self.stream.height, self.stream.width, self.is_sized = height, width, True
            picture = np.ascontiguousarray(frame[:height, :width])
            video_frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                video_frame.pts = round(times[number] * _CLOCK)
                video_frame.time_base = Fraction(1, _CLOCK)
            self.container.mux(self.stream.encode(video_frame))

    def close(self) -> None:
        """Finish the file, which holds a picture at least."""
        self.container.mux(self.stream.encode())
        self.container.close()


def exact_rate(fps: float) -> Fraction:
    """The rate that a measured one stands for: times in milliseconds make 11.998 of 12."""
    usual = Fraction(round(fps)), Fraction(1000 * round(fps), 1001)  # 30 or 29.97
    nearest = min(usual, key=lambda rate: abs(rate - fps))
    is_near = abs(nearest - fps) < 0.002 * fps
    return nearest if is_near else Fraction(fps).limit_denominator(1001)
