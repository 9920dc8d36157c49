# SPDX-License-Identifier: Apache-2.0
"""Every window of a source once, by number or in order: for evaluation and analysis."""

import logging
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Dataset

from .source import Features, Source
from .window import Sample, WindowReader, WindowSpec, to_tensors

logger = logging.getLogger(__name__)


class WindowDataset(Dataset[Sample]):
    """Every window of a source by number: for evaluation and analysis, or a sampler of your own.

    A `DataLoader` over it needs `collate_fn=collate`.
    """

    def __init__(self, source: Source, window: WindowSpec, cache_bytes: int = 2 << 30):
        self.source, self.window = source, window
        self.reader = WindowReader(source, window, cache_bytes=cache_bytes)
        counts = self.reader.all_num_starts()
        if counts is None:
            counts = np.array([self.reader.num_starts(int(clip)) for clip in source.clips])
        self._ends = np.cumsum(counts)

    @property
    def features(self) -> Features:
        """Sizes, cameras and rate of the source."""
        return self.source.features

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Sample:
        """The window as tensors; raises what the reader raises on a damaged clip."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"Window {index} of {len(self)}.")
        index %= len(self)
        position = int(np.searchsorted(self._ends, index, side="right"))
        start = index - (int(self._ends[position - 1]) if position else 0)
        clip = int(self.source.clips[position])
        return to_tensors(self.reader.sample(clip, start, self.reader.decode(clip, [start])))


def iterate_windows(source: Source, window: WindowSpec, clips: list[int]) -> Iterator[Sample]:
    """Every window of some clips, as arrays; each clip is decoded once, damaged ones are named."""
    reader = WindowReader(source, window)
    for clip in clips:
        try:
            starts = range(reader.num_starts(clip))
            decoded = reader.decode(clip, starts)
        except Exception as error:
            logger.warning("Skipped %s of %s: %s", source.clip_name(clip), source.name, error)
            continue
        for start in starts:
            yield reader.sample(clip, start, decoded)
