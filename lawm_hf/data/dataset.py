# SPDX-License-Identifier: Apache-2.0
"""Every window of a source once, by number or in order: for evaluation and analysis."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Dataset

from .bad_clips import BadClips
from .reader import Sample, WindowReader, to_tensors
from .source import Features, Source
from .window import WindowSpec


class WindowDataset(Dataset[Sample]):
    """Every window of a source by number: for evaluation and analysis, or a sampler of your own.

    In the place of a window that cannot be read stands the next one that can, as its `index` says;
    the clip is named, and noted in `bad`. A `DataLoader` over it needs `collate_fn=collate`.
    """

    def __init__(self, source: Source, window: WindowSpec, cache_bytes: int = 2 << 30):
        self.source, self.window, self.bad = source, window, BadClips(source)
        self.reader = WindowReader(source, window, cache_bytes=cache_bytes)
        counts = self.reader.all_num_starts()
        if counts is None:
            counts = np.zeros(len(source.clips), np.int64)
            for position, clip in enumerate(source.clips.tolist()):
                with self.bad.skipped(clip):
                    counts[position] = self.reader.num_starts(clip)
        self._ends = np.cumsum(counts)

    @property
    def features(self) -> Features:
        """Sizes, cameras and rate of the source."""
        return self.source.features

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Sample:
        """The window as tensors.

        Raises:
            RuntimeError: If too many clips are bad.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"Window {index} of {len(self)}.")
        index %= len(self)
        for _ in self.source.clips:
            position = int(np.searchsorted(self._ends, index, side="right"))
            start = index - (int(self._ends[position - 1]) if position else 0)
            clip = int(self.source.clips[position])
            with self.bad.skipped(clip):
                return to_tensors(
                    self.reader.sample(clip, start, self.reader.decode(clip, [start]))
                )
            index = int(self._ends[position]) % len(self)  # the first window of the next clip
        raise self.bad.too_many()


def iterate_windows(source: Source, window: WindowSpec, clips: list[int]) -> Iterator[Sample]:
    """Every window of some clips, as arrays; each clip is decoded once, damaged ones are named."""
    reader, bad = WindowReader(source, window), BadClips(source)
    for clip in clips:
        samples: list[Sample] = []
        with bad.skipped(clip):
            starts = range(reader.num_starts(clip))
            decoded = reader.decode(clip, starts)
            samples = [reader.sample(clip, start, decoded) for start in starts]
        yield from samples
