# SPDX-License-Identifier: Apache-2.0
"""The order of samples: a pure function of (seed, worker, position), so that resuming is exact.

An epoch of a source is a permutation of *visits*. A visit decodes a clip once for several windows
spread evenly over it: visit `v` of `K` holds the windows that start at v, v+K, v+2K, …, so that all
visits together are every window once. (Where only opening a clip tells its length, an epoch visits
each clip once, at a random `v`.) Each worker of each rank owns one contiguous piece of the
permutation, and shuffles the windows of a block of visits. Where a worker stands is a few numbers
per source.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from .source import BadClipError
from .window import DecodedClip, Sample, WindowReader, collate

logger = logging.getLogger(__name__)

_OPEN_FILES = 4  # of a remote set: visits are shuffled over so many files at a time
_CHOICES = 1024  # sources are drawn in chunks of so many samples
_MIN_SEEN = 100  # windows seen before the share of bad ones means anything


@dataclass(frozen=True)
class Order:
    """What the order of samples depends on besides the sources themselves.

    Args:
        seed: Seed.
        weights: Probability of each source, per sample.
        num_parts: Workers of all ranks together.
        windows_per_visit: Windows taken per decoded clip, for each source.
        visits_per_block: Visits whose windows are shuffled together.
    """

    seed: int
    weights: tuple[float, ...]
    num_parts: int
    windows_per_visit: tuple[int, ...]
    visits_per_block: int


@dataclass
class Position:
    """Where one worker stands in one source.

    Attributes:
        epoch: Epochs completed.
        block: Blocks completed in this epoch.
        offset: Windows of this block that were used or skipped.
        seen: Windows used or skipped in all.
        bad: Windows skipped in all.
        progress: `epoch` with its fraction; informative.
    """

    epoch: int = 0
    block: int = 0
    offset: int = 0
    seen: int = 0
    bad: int = 0
    progress: float = 0.0


class SourceCursor:
    """One worker's walk through one source.

    Args:
        reader: Reads the source's windows.
        order: The order.
        part: Which worker of all ranks.
        position: Where to begin.
        max_bad_share: Largest share of bad windows that is accepted.
    """

    def __init__(
        self,
        reader: WindowReader,
        order: Order,
        part: int,
        position: Position,
        max_bad_share: float,
    ):
        self.reader, self.order, self.part, self.position = reader, order, part, position
        self.max_bad_share = max_bad_share
        self.per_visit = order.windows_per_visit[reader.source_index]
        # What follows is derived from the position: the visits of the epoch, the block's windows,
        # its decoded clips (or why they are bad), and how many of their windows are still to come.
        self._epoch, self._visits = -1, (np.empty(0, np.int64), np.empty(0, np.int64))
        self._block, self._windows = -1, [(0, 0)]
        self._decoded: dict[int, DecodedClip | Exception] = {}
        self._left: Counter[int] = Counter()

    def next(self) -> Sample:
        """The next good window.

        Raises:
            RuntimeError: If more than `max_bad_share` of the windows were bad.
        """
        at = self.position
        while True:
            self._enter_block()
            clip, start = self._windows[at.offset]
            decoded = self._decode(clip)
            at.offset, at.seen = at.offset + 1, at.seen + 1
            self._left[clip] -= 1
            if not self._left[clip]:
                del self._decoded[clip]
            error = decoded
            if not isinstance(decoded, Exception):
                try:
                    return self.reader.sample(clip, start, decoded)
                except Exception as raised:
                    error = self._warn(clip, raised)
            at.bad += 1
            # All bad is never accepted: there would be nothing to wait for.
            if at.seen >= _MIN_SEEN and at.bad > min(self.max_bad_share, 0.999) * at.seen:
                raise RuntimeError(
                    f"{at.bad} of {at.seen} windows of {self.reader.source.name} are bad, more "
                    f"than `max_bad_share` {self.max_bad_share} allows. The last one, "
                    f"{self.reader.source.clip_name(clip)}: {error}"
                )

    def _enter_block(self) -> None:
        at, size = self.position, self.order.visits_per_block
        while True:
            if self._epoch != at.epoch:
                self._epoch, self._block = at.epoch, -1
                self._visits = self._draw_visits()
            if self._block != at.block:
                self._block = at.block
                self._windows = self._draw_windows()
            if at.offset < len(self._windows):
                return
            at.block, at.offset = at.block + 1, 0
            if at.block * size >= len(self._visits[0]):
                at.epoch, at.block = at.epoch + 1, 0
            at.progress = at.epoch + at.block * size / len(self._visits[0])

    def _random(self, *path: int) -> np.random.Generator:
        return np.random.default_rng([self.order.seed, self.reader.source_index, *path])

    def _draw_visits(self) -> tuple[np.ndarray, np.ndarray]:
        """This part's visits in the epoch: clips, and visit numbers (-1: drawn when opened)."""
        source, parts = self.reader.source, self.order.num_parts
        clips, numbers = source.clips, np.full(len(source.clips), -1)
        starts = self.reader.all_num_starts()
        if starts is not None:
            counts = -(-starts // self.per_visit)
            clips = np.repeat(source.clips, counts)
            numbers = np.arange(len(clips)) - np.repeat(np.cumsum(counts) - counts, counts)
        if len(clips) < parts:
            raise ValueError(
                f"{source.name} has {len(clips)} visits for {parts} workers of all processes: some "
                "would sit idle. Use fewer workers, or fewer `windows_per_visit`."
            )
        rng = self._random(self.position.epoch)
        chosen = rng.permutation(len(clips))
        if source.files is not None:  # file by file, so that each is fetched once an epoch
            group = rng.permutation(int(source.files.max()) + 1) // _OPEN_FILES
            chosen = chosen[np.argsort(group[source.files[clips[chosen]]], kind="stable")]
        chosen = chosen[len(clips) * self.part // parts : len(clips) * (self.part + 1) // parts]
        return clips[chosen], numbers[chosen]

    def _draw_windows(self) -> list[tuple[int, int]]:
        """The windows of the block; a clip that does not open stands in it once, as bad."""
        at, size = self.position, self.order.visits_per_block
        visits = slice(at.block * size, (at.block + 1) * size)
        windows: list[tuple[int, int]] = []
        self._decoded = {}
        for clip, number in zip(*(column[visits].tolist() for column in self._visits), strict=True):
            try:
                starts = self._starts(clip, number)
            except Exception as error:
                self._decoded[clip] = self._warn(clip, error)
                starts = [0]
            windows += [(clip, start) for start in starts]
        shuffle = self._random(at.epoch, self.part, at.block).permutation(len(windows))
        windows = [windows[i] for i in shuffle]
        self._left = Counter(clip for clip, _ in windows[at.offset :])
        return windows

    def _starts(self, clip: int, number: int) -> range:
        count = self.reader.num_starts(clip)
        if not count:
            raise BadClipError("too short for one window")
        visits = -(-count // self.per_visit)
        if number < 0:
            number = int(self._random(self.position.epoch, clip).integers(visits))
        return range(number, count, visits)

    def _decode(self, clip: int) -> DecodedClip | Exception:
        if clip not in self._decoded:
            # For all its windows in the block, those before a resume too: a clip that is damaged
            # somewhere then fails as it did.
            starts = [s for c, s in self._windows if c == clip]
            try:
                if not self.reader.source.task(clip):
                    raise BadClipError("no instruction")
                self._decoded[clip] = self.reader.decode(clip, starts)
            except Exception as error:
                self._decoded[clip] = self._warn(clip, error)
        return self._decoded[clip]

    def _warn(self, clip: int, error: Exception) -> Exception:
        source = self.reader.source
        logger.warning("Skipped %s of %s: %s", source.clip_name(clip), source.name, error)
        return error


class WindowStream(IterableDataset):
    """Endless `(worker, positions, batch)`; in a `DataLoader` each worker yields its own part.

    Args:
        readers: One for each source.
        order: The order.
        batch_size: Samples in a batch.
        rank: This process.
        num_workers: Workers of this process, at least 1.
        positions: For each worker where to begin.
        first_worker: The worker whose batch comes first.
        max_bad_share: Largest share of bad windows of a source.
    """

    def __init__(
        self,
        readers: Sequence[WindowReader],
        order: Order,
        *,
        batch_size: int,
        rank: int,
        num_workers: int,
        positions: Sequence[dict[str, Any]],
        first_worker: int,
        max_bad_share: float,
    ):
        self.readers, self.order, self.batch_size = readers, order, batch_size
        self.rank, self.num_workers = rank, num_workers
        self.positions, self.first_worker = positions, first_worker
        self.max_bad_share = max_bad_share

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
        info = get_worker_info()
        if info is not None:
            for reader in self.readers:
                reader.source.reopen()
        yield from self.batches(((info.id if info else 0) + self.first_worker) % self.num_workers)

    def batches(self, worker: int) -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
        """What one worker yields."""
        part = self.rank * self.num_workers + worker
        samples = self.positions[worker]["samples"]
        cursors = [
            SourceCursor(reader, self.order, part, Position(**position), self.max_bad_share)
            for reader, position in zip(
                self.readers, self.positions[worker]["sources"], strict=True
            )
        ]
        while True:
            batch = [
                cursors[self._choose(part, k)].next()
                for k in range(samples, samples + self.batch_size)
            ]
            samples += self.batch_size
            at = {"samples": samples, "sources": [asdict(c.position) for c in cursors]}
            yield worker, at, collate(batch)

    def _choose(self, part: int, sample: int) -> int:
        """Number of the source of a sample."""
        if len(self.readers) == 1:
            return 0
        return int(
            _choices(self.order.seed, part, sample // _CHOICES, self.order.weights)[
                sample % _CHOICES
            ]
        )


@lru_cache(maxsize=2)
def _choices(seed: int, part: int, chunk: int, weights: tuple[float, ...]) -> np.ndarray:
    draws = np.random.default_rng([seed, _CHOICES, part, chunk]).random(_CHOICES)
    ends = np.cumsum(weights) / np.sum(weights)
    return np.minimum(np.searchsorted(ends, draws, side="right"), len(weights) - 1)
