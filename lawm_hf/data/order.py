# SPDX-License-Identifier: Apache-2.0
"""The order of samples: a pure function of the seed and the global batch.

How many processes and workers share the work changes nothing, so a run goes on with another number
of them, with the very samples that would have come. An epoch of a source is a permutation of
*visits*. A visit decodes a clip once for several windows spread evenly over it: visit `v` of `K`
holds the windows that start at v, v+K, v+2K, …, so that all visits together are every window once.
(Where only opening a clip tells its length, an epoch visits each clip once, at random places.)

The windows of a source are numbered in this order, epoch after epoch, and dealt to the samples that
are to come from it. Windows of one visit go to one *lane*: the same row of the global batch, in
later batches. Whoever owns a row, then, decodes its visits once, and a batch holds as many clips as
it has rows. What a sample is follows from its number and two sums, so that any place is found
without walking there.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .bad_clips import BadClipError
from .reader import WindowReader

_LANES = 64  # at least this many visits are under way at a time, however small the batch
_RUN = 64  # samples of a lane in a block
_OPEN_FILES = 4  # of a remote set: visits are shuffled over this many files at a time
_CHOICES = 1024  # sources are drawn in chunks of this many samples
_SHUFFLED = 64  # visits of one window are shuffled once more among this many, as they always were


@dataclass(frozen=True)
class Order:
    """What the order of samples depends on besides the sources themselves.

    Args:
        seed: Seed.
        weights: Probability of each source, per sample.
        windows_per_visit: Windows taken per decoded clip, for each source.
        global_batch: Samples of an update, over all processes and micro-batches.
    """

    seed: int
    weights: tuple[float, ...]
    windows_per_visit: tuple[int, ...]
    global_batch: int

    @property
    def _turns(self) -> int:
        """Batches until a lane's turn comes again."""
        return -(-_LANES // self.global_batch)

    @property
    def block_size(self) -> int:
        """Samples that are dealt together."""
        return self.global_batch * self._turns * _RUN

    def sources(self, first: int, end: int) -> np.ndarray:
        """From which source the samples numbered `first` to `end` come."""
        if len(self.weights) == 1:
            return np.zeros(end - first, np.int64)
        chunks = range(first // _CHOICES, -(-end // _CHOICES))
        drawn = [_choices(self.seed, chunk, self.weights) for chunk in chunks]
        start = first % _CHOICES
        return np.concatenate([*drawn, np.empty(0, np.int64)])[start : start + end - first]

    def counts(self, first: int, end: int) -> np.ndarray:
        """How many of these samples come from each source."""
        return np.bincount(self.sources(first, end), minlength=len(self.weights))

    def deal(self, block: int, begins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each sample of a block its source, and the number of its window in there.

        Args:
            block: Which block of samples.
            begins: Windows of each source that earlier blocks took.
        """
        first, size = block * self.block_size, self.block_size
        chosen, numbers = self.sources(first, first + size), np.empty(size, np.int64)
        turn, row = np.divmod(np.arange(size), self.global_batch)
        lane = row * self._turns + turn % self._turns
        for source, per_visit in enumerate(self.windows_per_visit):
            mine = np.flatnonzero(chosen == source)
            if per_visit > 1:  # a visit of one window may fall anywhere
                mine = mine[np.argsort(lane[mine], kind="stable")]
            numbers[mine] = begins[source] + np.arange(len(mine))
        return chosen, numbers


@lru_cache(maxsize=2)
def _choices(seed: int, chunk: int, weights: tuple[float, ...]) -> np.ndarray:
    draws = np.random.default_rng([seed, _CHOICES, 0, chunk]).random(_CHOICES)
    ends = np.cumsum(weights) / np.sum(weights)
    return np.minimum(np.searchsorted(ends, draws, side="right"), len(weights) - 1)


class Visits:
    """The windows of a source in order, epoch after epoch without end, numbered from 0.

    Args:
        reader: Reads the source's windows.
        seed: Seed of the order.
        per_visit: Windows taken per decoded clip.

    Attributes:
        clips: Clip of each visit of an epoch, before it is shuffled.
        total: Windows of an epoch.

    Raises:
        ValueError: If no clip is long enough for a window.
    """

    def __init__(self, reader: WindowReader, seed: int, per_visit: int):
        self.reader, self.seed, self.per_visit = reader, seed, per_visit
        self.clips, starts = reader.source.clips, reader.all_num_starts()
        self._counts = self._firsts = None
        sizes = np.full(len(self.clips), per_visit)
        if starts is not None:
            counts = -(-starts // per_visit)
            self.clips, starts = np.repeat(self.clips, counts), np.repeat(starts, counts)
            self._firsts = np.arange(len(starts)) - np.repeat(np.cumsum(counts) - counts, counts)
            self._counts, self._starts = np.repeat(counts, counts), starts
            sizes = -(-(starts - self._firsts) // self._counts)
        self._sizes, self.total = sizes, int(sizes.sum())
        if not self.total:
            raise ValueError(
                f"No clip of {reader.source.name} is long enough for a window of "
                f"{reader.window.chunk_size} steps. Use a smaller `chunk_size`, or other clips."
            )
        self._drawn = (-1, self._sizes, self._sizes)

    def random(self, *path: int) -> np.random.Generator:
        """Random numbers that belong to a place in the order."""
        return np.random.default_rng([self.seed, self.reader.source_index, *path])

    def locate(self, numbers: np.ndarray) -> np.ndarray:
        """Epoch, visit and position in the visit of windows, `(n, 3)`."""
        epochs, rest = np.divmod(numbers, self.total)
        found = np.empty((len(numbers), 3), np.int64)
        for epoch in np.unique(epochs).tolist():
            mine = epochs == epoch
            order, ends = self._draw(epoch)
            places = np.searchsorted(ends, rest[mine], side="right")
            visits = order[places]
            positions = rest[mine] - ends[places] + self._sizes[visits]
            found[mine] = np.stack([np.full(len(visits), epoch), visits, positions], 1)
        return found

    def starts(self, epoch: int, visit: int) -> np.ndarray:
        """The first frames of a visit's windows, in the order in which they are shown.

        Raises:
            BadClipError: If the clip is too short for one; or whatever opening it raises.
        """
        if self._firsts is not None and self._counts is not None:
            count = int(self._starts[visit])
            found = np.arange(self._firsts[visit], count, self._counts[visit])
            return found if len(found) == 1 else self.random(epoch, visit).permutation(found)
        count = self.reader.num_starts(int(self.clips[visit]))
        if not count:
            raise BadClipError("too short for one window")
        rng = self.random(epoch, visit)
        places = (np.arange(self.per_visit) + rng.random()) * count / self.per_visit
        return rng.permutation(places.astype(np.int64))

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The visits of an epoch in order, and how many windows there are up to each one's end."""
        if self._drawn[0] != epoch:
            rng, files = self.random(epoch), self.reader.source.files
            order = rng.permutation(len(self.clips))
            if files is not None:  # file by file, so that each is fetched once an epoch
                group = rng.permutation(int(files.max()) + 1) // _OPEN_FILES
                order = order[np.argsort(group[files[self.clips[order]]], kind="stable")]
            for i in range(0, len(order) if self.per_visit == 1 else 0, _SHUFFLED):
                part = order[i : i + _SHUFFLED]
                order[i : i + _SHUFFLED] = part[
                    self.random(epoch, 0, i // _SHUFFLED).permutation(len(part))
                ]
            self._drawn = (epoch, order, np.cumsum(self._sizes[order]))
        return self._drawn[1:]
