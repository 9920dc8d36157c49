# SPDX-License-Identifier: Apache-2.0
"""An episode before it is in a dataset: its pictures as PNG files, and a file that keeps it."""

import itertools
import json
import struct
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file


@dataclass
class Episode:
    """One recorded episode of `T` frames.

    Args:
        task: The (first) instruction.
        length: Frames `T`.
        vectors: Features of shape `(T, size)` or `(T, rows, size)`, float32.
        images: Features that are pictures in the table: `T` PNG files each.
        histograms: For each camera, how often each byte value occurs, `(3, 256)`.
        truth: Further columns for `meta/<robot_type>_truth.parquet`, `T` rows each.
        tasks: The instruction of each frame, `T` of them, if it changes; else none.
    """

    task: str
    length: int
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    images: dict[str, list[bytes]] = field(default_factory=dict)
    histograms: dict[str, np.ndarray] = field(default_factory=dict)
    truth: dict[str, Any] = field(default_factory=dict)
    tasks: list[str] = field(default_factory=list)

    @classmethod
    def from_views(
        cls,
        task: str,
        vectors: dict[str, np.ndarray],
        views: dict[str, list[np.ndarray]],
        truth: dict[str, Any],
    ) -> "Episode":
        """An episode of `T` pictures `(H, W, 3)` uint8 from each view."""
        views = {f"observation.images.{view}": frames for view, frames in views.items()}
        images = {key: [encode_png(frame) for frame in frames] for key, frames in views.items()}
        histograms = {key: byte_histogram(np.stack(frames)) for key, frames in views.items()}
        return cls(task, len(next(iter(views.values()))), vectors, images, histograms, truth)


def save_episodes(episodes: Iterable[Episode], path: Path) -> None:
    """Keep episodes until all are there; the file holds data only, no code."""
    tensors: dict[str, np.ndarray] = {}
    notes = []
    for number, episode in enumerate(episodes):
        note = asdict(episode) | {"images": {}}
        for key, pngs in episode.images.items():
            note["images"][key] = [len(png) for png in pngs]
            tensors[f"{number}/images/{key}"] = np.frombuffer(b"".join(pngs), np.uint8)
        for kind in ("vectors", "histograms"):
            for key, values in note.pop(kind).items():
                tensors[f"{number}/{kind}/{key}"] = values
        notes.append(note)
    save_file(tensors, path, {"episodes": json.dumps(notes)})


def load_episodes(path: Path) -> list[Episode]:
    """What `save_episodes` kept.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        with safe_open(path, "np") as file:
            notes = json.loads(file.metadata()["episodes"])
            for key in file.keys():  # noqa: SIM118, it is no dictionary
                number, kind, name = key.split("/", 2)
                values = file.get_tensor(key)
                if kind == "images":
                    ends = np.cumsum([0, *notes[int(number)]["images"][name]])
                    values = [values[a:b].tobytes() for a, b in itertools.pairwise(ends)]
                notes[int(number)].setdefault(kind, {})[name] = values
        return [Episode(**note) for note in notes]
    except Exception as error:
        raise ValueError(f"{path} is not a file of episodes: {error}. Delete it.") from error


def encode_png(image: np.ndarray) -> bytes:
    """Encode uint8 `(H, W, 3)` as PNG, four times faster than PIL for small pictures."""
    height, width, _ = image.shape
    flat = image.reshape(height, width * 3)
    rows = np.empty((height, 1 + width * 3), np.uint8)
    rows[:, 0] = 2  # Filter "up": each row holds the difference to the one above (modulo 256).
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits per channel, RGB.
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 3)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def byte_histogram(image: np.ndarray) -> np.ndarray:
    """How often each byte value occurs in each channel of `(H, W, 3)`: int64 `(3, 256)`."""
    offset = image.reshape(-1, 3) + np.array([0, 256, 512])
    return np.bincount(offset.reshape(-1), minlength=768).reshape(3, 256)
