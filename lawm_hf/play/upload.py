# SPDX-License-Identifier: Apache-2.0
"""A stranger's video as a scene: read by the loader's rules, or refused with one sentence."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..data.formats.videos import VideoSource
from ..data.reader import WindowReader
from ..data.source import BadClipError
from ..data.video import scan_video
from ..writing.text import printable
from .studio import MAX_WORDS, Scene, Studio

MAX_BYTES = 64 << 20
MAX_SECONDS = 300.0
_MAX_FRAMES = 30_000


class OneVideo(VideoSource):
    """A source of one video file."""

    def __init__(self, path: Path, task: str):
        self.path = path
        super().__init__(path.name, [task])

    def clip_name(self, clip: int) -> str:
        """Its file's name."""
        return self.path.name

    def open(self, clip: int) -> Path:
        """See `VideoSource.open`."""
        return self.path


def read_upload(studio: Studio, path: str | Path, task: str, start_s: float = 0.0) -> Scene:
    """The window of a video that begins at a time, in steps as long as those of training.

    Args:
        studio: Whose models will look at it.
        path: The file.
        task: What is done in it.
        start_s: Second of the video where the window begins; where it has fewer, at the end.

    Raises:
        ValueError: One sentence that says why the file cannot be used, and what can.
    """
    path = Path(path)
    name = printable(path.name)[:80]
    if not task.strip() or len(task) > MAX_WORDS:
        raise ValueError(f"Say in 1 to {MAX_WORDS} characters what is done in {name}.")
    if not path.is_file() or not path.stat().st_size:
        raise ValueError(f"{name} is empty: choose another video.")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(
            f"{name} has {size >> 20} MiB, more than the {MAX_BYTES >> 20} MiB that are read here: "
            "cut it first."
        )
    try:
        times, _, unit = scan_video(path)
        seconds = float(times[-1] - times[0]) * unit
        if seconds > MAX_SECONDS or len(times) > _MAX_FRAMES:
            raise BadClipError(f"it lasts {seconds:.0f} s, longer than {MAX_SECONDS:.0f} s")
        return _read(studio, path, task, start_s, name)
    except Exception as error:  # Whatever damage makes a decoder raise.
        # Errors of the system say a path, too, which is the server's own.
        told = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = printable(told.splitlines()[0])
        raise ValueError(
            f"{name} cannot be used ({reason[:160]}): choose a video, such as an mp4 or webm of a "
            "few seconds."
        ) from error


def _read(studio: Studio, path: Path, task: str, start_s: float, name: str) -> Scene:
    source = OneVideo(path, task)
    rate = source.fps(0)
    # A video slower than the training data is taken frame by frame: none may repeat.
    interval = max(studio.interval, 1 / rate)
    window = replace(studio.window, frame_interval_s=interval, max_start=None)
    reader = WindowReader(source, window, with_state=False)
    starts = reader.num_starts(0)
    if starts < 1:
        raise BadClipError(f"it is shorter than {2 * interval:.2g} s")
    start = min(max(0, round(start_s * rate)), starts - 1)
    sample = reader.sample(0, start, reader.decode(0, [start]))
    return Scene(np.asarray(sample["frames"]), task, name)
