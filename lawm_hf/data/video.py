# SPDX-License-Identifier: Apache-2.0
"""From a stored video to square RGB frames.

PyAV decodes: its wheels need no library of the system.
"""

import heapq
import itertools
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from .bad_clips import regular
from .images import crop_centre, fitted_size
from .source import BadClipError, Resize
from .video_holes import check_end, has_hole

_LARGEST_GAP = 2.5  # between two frames of a sound video, in median intervals
_MOST_PIXELS = 1 << 26  # of a frame: twice 8K
_SEEK_FRAMES = 4  # frames decoded in the time a seek takes
# Where a video's matrix is not BT.601, which libswscale takes by default: BT.709, FCC, BT.2020 (two
# forms) and SMPTE 240M, by their numbers in H.273.
_OTHER_MATRICES = {1, 4, 7, 9, 10}
# A newer PyAV scales by a thread per core, and a forked worker that frees them hangs.
_ONE_THREAD = {"threads": 1} if "threads" in (VideoReformatter.reformat.__doc__ or "") else {}
_FULL_RANGE, _BILINEAR = int(ColorRange.JPEG), int(Interpolation.BILINEAR)
# Times of all frames and of the keyframes, ascending, and seconds per unit of time.
Scan = tuple[np.ndarray, np.ndarray, float]


class Video:
    """An open video, read at presentation times.

    Args:
        file: Path, or an open binary file.
        keyframes: Presentation times of its keyframes, ascending, if they are known. If not, the
            distance between keyframes is learned from the seeks.
    """

    def __init__(self, file: str | Path | BinaryIO, keyframes: np.ndarray | None = None):
        self._file = file
        self.container = av.open(str(regular(file)) if isinstance(file, Path) else file, "r")
        self.stream = _main_stream(self.container)
        # Many processes decode many small files: threads inside one decoder only cost.
        self.stream.codec_context.thread_count = 1
        self.keyframes = None if keyframes is None else keyframes.tolist()
        self.seek_beyond = 0  # a gap longer than this, in units of time_base, is worth a seek
        self._pixel_aspect = float(self.stream.sample_aspect_ratio or 1)
        # One for all frames: each would set up a scaler of its own otherwise.
        self._reformatter = VideoReformatter()
        # A seek costs about as much as to decode so much more.
        frame = 1 / (float(self.stream.average_rate or 1) * self.time_base)
        self._seek_cost = int(_SEEK_FRAMES * frame)
        self._begin = min(0, self.stream.start_time or 0)  # seeking to it finds the first frame
        self._turn: tuple[bool, slice, slice] | None = None  # known from the first frame on
        self._colours: dict[str, int] = {}
        self._frames: Iterator[av.VideoFrame] | None = None
        # AVI knows no presentation times: those of H.264 and HEVC come in the order of decoding.
        codec = self.stream.codec_context.codec.canonical_name
        self._untimed = self.container.format.name == "avi" and codec in ("h264", "hevc")
        # Presentation time of the frame that was read last; None where the decoder may be anywhere.
        self._position: int | None = None

    @property
    def time_base(self) -> float:
        """Seconds per unit of presentation time."""
        assert self.stream.time_base is not None, "a demuxed video stream has a time base"
        return float(self.stream.time_base)

    @property
    def duration(self) -> float:
        """Seconds that the container states; 0 if it does not."""
        return (self.stream.duration or 0) * self.time_base

    def close(self) -> None:
        """Free the decoder."""
        self.container.close()

    def scan(self) -> Scan:
        """Where its frames lie; nothing is decoded. `read` then knows the keyframes.

        About 2 ms for a clip of Something-Something; also right for a variable frame rate.

        Raises:
            BadClipError: If there is no video, or frames or parts of them are missing.
        """
        check_end(self._file)
        packets = []
        for packet in self.container.demux(self.stream):
            if packet.is_corrupt and packet.size:
                raise BadClipError("the file ends within a frame: fetch it again")
            # An edit list hides packets that only serve to decode others.
            if packet.size and packet.pts is not None and not packet.is_discard:
                packets.append((packet.pts, packet.is_keyframe))
        if not packets or not self.stream.time_base:
            raise BadClipError("no frames")
        times = np.array([p[0] for p in packets], np.int64)
        keyframes = np.sort(times[np.array([p[1] for p in packets])])
        keyframes = keyframes[:1] if self._untimed else keyframes
        times = np.sort(times)
        steps = np.diff(times)
        # Demuxers step over damage in silence; frames are missing, and all later ones misnumbered.
        # Not that of mp4, which has a table of all frames: a gap is a picture that stood still.
        has_table = self.container.format.name.startswith("mov")
        if not has_table and len(steps) and steps.max() > _LARGEST_GAP * np.median(steps):
            length, at = steps.max() * self.time_base, times[steps.argmax()] * self.time_base
            raise BadClipError(f"{length:.2f} s without a frame after {at:.2f} s")
        self.keyframes, self._frames = keyframes.tolist(), iter(())  # the demuxer is at the end
        return times, keyframes, self.time_base

    @property
    def rewinds(self) -> bool:
        """Whether it may be read after a scan: other containers find only their end for certain."""
        return bool(self.keyframes) and self.container.format.name.startswith(("mov", "matroska"))

    def read(self, times: np.ndarray, tolerance: int, size: int, resize: Resize) -> np.ndarray:
        """Frames at presentation times.

        Args:
            times: Presentation times, ascending, `(n,)`.
            tolerance: How far from its time a frame may lie.
            size: Side of the result.
            resize: See `WindowSpec`.

        Returns:
            `(n, 3, size, size)` uint8.

        Raises:
            BadClipError: If a frame is missing.
        """
        out = np.empty((len(times), 3, size, size), np.uint8)
        for i, time in enumerate(times.tolist()):
            if self._should_seek(time):
                self._seek(time)
            out[i] = self._frame_at(time, tolerance, size, resize)
        return out

    def _should_seek(self, time: int) -> bool:
        position = self._begin if self._frames is None else self._position
        if position is None or (self._frames is not None and time <= position):
            return True
        if self.keyframes is not None:
            last = bisect_right(self.keyframes, time) - 1
            return last >= 0 and self.keyframes[last] > position + self._seek_cost
        return time - position > self.seek_beyond

    def _seek(self, time: int) -> None:
        """Begin to decode at a keyframe that is shown no later than `time`."""
        back = 0
        while True:
            target = self._begin if self._untimed else max(time - back, self._begin)
            self.container.seek(target, stream=self.stream, backward=True)
            self._frames = self._decode()
            first = next((frame for frame in self._frames if frame.pts is not None), None)
            # Containers seek by decoding time: where frames are reordered, that can be too late.
            if target == self._begin or (first is not None and first.pts <= time):
                break
            back = 4 * back + int(1 / self.time_base)
        if first is not None:
            # Keyframes are at least so far apart: shorter gaps are decoded through.
            self.seek_beyond = max(self.seek_beyond, time - first.pts)
            self._frames = itertools.chain([first], self._frames)
        self._position = None

    def _decode(self) -> Iterator[av.VideoFrame]:
        context, container = self.stream.codec_context, self.container.format.name
        codec, waiting = context.codec.canonical_name, list[int]()
        for packet in self.container.demux(self.stream):
            if has_hole(bytes(packet), codec, container):
                raise BadClipError("a hole of zeros in the compressed video: fetch the file again")
            if not self._untimed:
                yield from context.decode(packet)
                continue
            if packet.pts is not None:
                heapq.heappush(waiting, packet.pts)
            for frame in context.decode(packet):  # in the order in which they are shown
                frame.pts = heapq.heappop(waiting) if waiting else None  # pyright: ignore[reportAttributeAccessIssue]
                yield frame

    def _frame_at(self, time: int, tolerance: int, size: int, resize: Resize) -> np.ndarray:
        """The frame nearest to a time."""
        if self._frames is None:
            self._frames = self._decode()
        self._position = None
        before: av.VideoFrame | None = None  # it may be nearer than the one after
        for frame in self._frames:
            pts = frame.pts
            if pts is None or pts < time - tolerance:
                continue
            if pts >= time - tolerance // 8:  # as good as exact: no look at the next one
                break
            before = frame
        else:
            frame = before
        if frame is None:
            raise BadClipError(f"the video ends before {time * self.time_base:.3f} s")
        if before is not None and time - before.pts < abs(frame.pts - time):
            self._frames, frame = itertools.chain([frame], self._frames), before
        self._position = frame.pts
        if frame.is_corrupt:
            raise BadClipError(f"the frame at {time * self.time_base:.3f} s is damaged")
        if frame.pts > time + tolerance:
            raise BadClipError(f"no frame at {time * self.time_base:.3f} s")
        return crop_centre(self._upright(frame, size, resize), size)

    def _upright(self, frame: av.VideoFrame, size: int, resize: Resize) -> np.ndarray:
        """RGB `(H, W, 3)` as a player shows it: turned, and by the video's own matrix and range."""
        if self._turn is None:
            self._turn, self._colours = _turn(frame), _colours(frame)
        lying, rows, columns = self._turn
        wide = round(frame.width * self._pixel_aspect)
        shown = (frame.height, wide) if lying else (wide, frame.height)
        width, height = fitted_size(*shown, size, resize)
        target = (height, width) if lying else (width, height)
        scaled = self._reformatter.reformat(
            frame, *target, "rgb24", interpolation=_BILINEAR, **self._colours, **_ONE_THREAD
        )
        plane = scaled.planes[0]  # looked at where it lies: `to_ndarray` would copy it
        shape, strides = (plane.height, plane.width, 3), (plane.line_size, 3, 1)
        fitted = np.ndarray(shape, np.uint8, plane, strides=strides)
        return (fitted.transpose(1, 0, 2) if lying else fitted)[rows, columns]


def _main_stream(container: InputContainer) -> VideoStream:
    """The stream that ffmpeg takes: no cover picture, marked as the default, of the most pixels."""
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise BadClipError("no video stream")
    best = max(streams, key=lambda s: (s.disposition & Disposition.default, s.width * s.height))
    if best.width * best.height > _MOST_PIXELS:
        raise BadClipError(f"frames of {best.width} x {best.height} pixels: too large to be true")
    best.codec_context.options = {"max_pixels": str(_MOST_PIXELS)}  # whatever the container says
    return best


def _colours(frame: av.VideoFrame) -> dict[str, int]:
    """What `reformat` must be told of the frame's matrix and range."""
    found = {}
    if frame.colorspace in _OTHER_MATRICES:
        found["dst_colorspace"] = int(Colorspace.DEFAULT)  # one other than the source's: it looks
    if frame.color_range == _FULL_RANGE or frame.format.name.startswith("yuvj"):
        found["src_color_range"] = _FULL_RANGE
    return found


def _turn(frame: av.VideoFrame) -> tuple[bool, slice, slice]:
    """How a player turns the frame: whether x and y change places; then the order of each."""
    side: Any = frame.side_data
    x, y = (1, 0), (0, 1)
    if (side := side.get("DISPLAYMATRIX")) is not None:
        # (x, y) @ matrix is where a point goes, in units of 2^-16.
        matrix = np.frombuffer(bytes(side), np.int32).reshape(3, 3)[:2, :2] / (1 << 16)
        x, y = np.round(matrix).astype(int).T.tolist()
        if sorted((np.abs(x).tolist(), np.abs(y).tolist())) != [[0, 1], [1, 0]]:
            raise BadClipError(f"the video is turned by {frame.rotation} degrees")
    return x[0] == 0, slice(None, None, sum(y)), slice(None, None, sum(x))


def scan_video(file: str | Path | BinaryIO) -> Scan:
    """See `Video.scan`."""
    video = Video(file)
    try:
        return video.scan()
    finally:
        video.close()
