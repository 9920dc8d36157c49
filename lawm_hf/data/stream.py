# SPDX-License-Identifier: Apache-2.0
"""Reads the samples of some rows of every global batch, and sees to it that bad clips are skipped.

A clip that cannot be read leaves its places to other windows of the same source, which depend on
the place alone: whoever reads it, the order stays the same. Bad clips are named and counted, and
too many of them are an error.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from .bad_clips import BadClips
from .order import Order, Visits
from .reader import DecodedClip, Sample, collate

# Rows of batches, one batch after another, and the windows skipped for each, `(batches, S)`.
Piece = tuple[dict[str, Any], np.ndarray]
_MOST_TRIES = 1000  # windows tried in the place of a bad one: then hardly any can be good


@dataclass
class Position:
    """Where the order stands; the same for all processes.

    Attributes:
        samples: Samples taken so far, by all processes.
        begins: Windows of each source that came before the block that is under way.
    """

    samples: int
    begins: list[int] = field(default_factory=list)

    def advance(self, order: Order, samples: int) -> None:
        """Go on by this many samples, at most to the end of the block."""
        self.samples += samples
        if self.samples % order.block_size == 0:
            counts = order.counts(self.samples - order.block_size, self.samples)
            self.begins = [a + b for a, b in zip(self.begins, counts.tolist(), strict=True)]

    def windows(self, order: Order) -> np.ndarray:
        """Windows of each source taken so far."""
        first = self.samples // order.block_size * order.block_size
        return order.counts(first, self.samples) + self.begins


class SourceReader:
    """Reads windows of one source by their place in the order; each visit is decoded once.

    Args:
        visits: The order of the source's windows.
        max_bad_share: Largest share of bad clips that is accepted.

    Attributes:
        num_skipped: Windows that were skipped so far.
    """

    def __init__(self, visits: Visits, max_bad_share: float):
        self.visits, self.reader, self.num_skipped = visits, visits.reader, 0
        self.bad = BadClips(self.reader.source, max_bad_share)
        self._open: dict[tuple[int, int], tuple[np.ndarray, DecodedClip] | None] = {}
        self._left: Counter[tuple[int, int]] = Counter()

    def expect(self, places: np.ndarray) -> None:
        """Say which windows of a block will be asked for: `locate` of them, `(n, 3)`."""
        self._left = Counter(zip(places[:, 0].tolist(), places[:, 1].tolist(), strict=True))
        self._open = {}

    def sample(self, number: int, epoch: int, visit: int, position: int) -> Sample:
        """The window at a place in the order, for the sample of this number.

        Raises:
            RuntimeError: If more clips than `max_bad_share` are bad, beyond chance.
        """
        key, clip = (epoch, visit), int(self.visits.clips[visit])
        if key not in self._open:
            self._open[key] = None
            with self.bad.skipped(clip):
                # All windows of the visit, those of other readers too: a clip that is damaged
                # somewhere then fails for each of them.
                starts = self.visits.starts(epoch, visit)
                self._open[key] = starts, self.reader.decode(clip, starts.tolist())
        found = self._open[key]
        self._left[key] -= 1
        if not self._left[key]:
            del self._open[key]
        if found is not None:
            with self.bad.skipped(clip):
                return self.reader.sample(clip, int(found[0][position]), found[1])
        return self._another(number, epoch)

    def _another(self, number: int, epoch: int) -> Sample:
        self.num_skipped += 1
        rng, total = self.visits.random(number, epoch, 1), self.visits.total
        for _ in range(_MOST_TRIES):
            place = self.visits.locate(epoch * total + rng.integers(total, size=1))
            _, visit, position = place[0].tolist()
            clip = int(self.visits.clips[visit])
            with self.bad.skipped(clip):
                start = int(self.visits.starts(epoch, visit)[position])
                return self.reader.sample(clip, start, self.reader.decode(clip, [start]))
        raise self.bad.too_many()


class WindowStream(IterableDataset):
    """Endless pieces of batches; in a `DataLoader` each worker reads its own rows of them.

    A piece holds the worker's rows of `batches_per_piece` batches, one batch after another, and how
    many windows of each source were skipped for each batch, `(batches_per_piece, S)`.

    Args:
        visits: The order of each source's windows.
        order: The order.
        position: Where to begin, at the beginning of a batch.
        rows: For each worker its rows of the global batch.
        batches_per_piece: Batches in a piece.
        max_bad_share: Largest share of bad clips of a source.
    """

    def __init__(
        self,
        visits: Sequence[Visits],
        order: Order,
        *,
        position: Position,
        rows: Sequence[np.ndarray],
        batches_per_piece: int,
        max_bad_share: float,
    ):
        self.visits, self.order, self.position, self.rows = visits, order, position, rows
        self.batches_per_piece, self.max_bad_share = batches_per_piece, max_bad_share

    def __iter__(self) -> Iterator[Piece]:
        info = get_worker_info()
        if info is not None:
            for visits in self.visits:
                visits.reader.source.reopen()
        return self.pieces(info.id if info else 0)

    def pieces(self, worker: int) -> Iterator[Piece]:
        """What one worker yields."""
        readers = [SourceReader(visits, self.max_bad_share) for visits in self.visits]
        samples: list[Sample] = []
        skipped: list[list[int]] = []
        for numbers, places in self._batches(readers, self.rows[worker]):
            before = [reader.num_skipped for reader in readers]
            samples += [
                readers[source].sample(number, *place)
                for number, (source, *place) in zip(numbers, places, strict=True)
            ]
            skipped.append([r.num_skipped - b for r, b in zip(readers, before, strict=True)])
            if len(skipped) == self.batches_per_piece:
                yield collate(samples), np.array(skipped)
                samples, skipped = [], []

    def _batches(
        self, readers: Sequence[SourceReader], rows: np.ndarray
    ) -> Iterator[tuple[list[int], list[list[int]]]]:
        """Some rows of each batch: numbers of the samples, and their source and place in it."""
        order, size = self.order, self.order.block_size
        block, begin = divmod(self.position.samples, size)
        begins = np.array(self.position.begins)
        while True:
            sources, windows = order.deal(block, begins)
            begins = begins + np.bincount(sources, minlength=len(begins))
            mine = np.arange(size).reshape(-1, order.global_batch)[:, rows]
            mine = mine[begin // order.global_batch :]  # (batches to come, rows)
            places = np.empty((*mine.shape, 4), np.int64)
            places[..., 0] = sources[mine]
            for source, reader in enumerate(readers):
                chosen = places[..., 0] == source
                places[chosen, 1:] = self.visits[source].locate(windows[mine[chosen]])
                reader.expect(places[chosen, 1:])
            yield from zip((mine + block * size).tolist(), places.tolist(), strict=True)
            block, begin = block + 1, 0


def take_part(piece: dict[str, Any], number: int, count: int) -> dict[str, Any]:
    """The `number`-th of `count` equal parts of a batch."""
    size = len(piece["task"]) // count
    return {key: values[number * size : (number + 1) * size] for key, values in piece.items()}


def join(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One batch of several."""
    if len(parts) == 1:
        return parts[0]
    return {
        key: torch.cat([part[key] for part in parts])
        if torch.is_tensor(first)
        else [value for part in parts for value in part[key]]
        for key, first in parts[0].items()
    }


def micro_batches(
    pieces: Iterable[Sequence[Piece]], accumulation: int, done: int = 0
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Put the rows of all workers together, and take micro-batches from them.

    Args:
        pieces: One of each worker.
        accumulation: Micro-batches of an update.
        done: Those of the first update that were taken before.

    Yields:
        Each with the windows skipped for it, `(S,)`: the first of an update brings all of them.
    """
    for of_workers in pieces:
        skipped = np.sum([counts for _, counts in of_workers], 0)
        for number, counts in enumerate(skipped):
            whole = join([take_part(piece, number, len(skipped)) for piece, _ in of_workers])
            for micro in range(done, accumulation):
                new = counts if micro == done else np.zeros_like(counts)
                yield take_part(whole, micro, accumulation), new
            done = 0
