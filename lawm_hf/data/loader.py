# SPDX-License-Identifier: Apache-2.0
"""The loader of the recipes: a `DataLoader` over a `WindowStream` that knows where it is.

Do not pass it through `accelerator.prepare`: Accelerate would read on rank 0 and broadcast, or
split a second time what is split already. Give it `rank` and `world_size`, and move the batches
yourself.
"""

import gc
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..writing.text import get_logger
from .order import Order, Visits
from .prefetch import send_ahead
from .reader import WindowReader, open_readers
from .source import Source
from .spec import open_source
from .statistics import merge_statistics
from .stream import Piece, Position, WindowStream, micro_batches
from .window import WindowSpec

logger = get_logger(__name__)


def make_loader(
    sources: str | Source | Sequence[str | Source],
    window: WindowSpec,
    batch_size: int,
    *,
    weights: Sequence[float] | None = None,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    accumulation: int = 1,
    num_workers: int = 0,
    prefetch_factor: int = 4,
    windows_per_visit: int | None = None,
    cache_bytes: int = 4 << 30,
    max_bad_share: float = 0.05,
    device: torch.device | str = "cpu",
) -> "WindowLoader":
    """Stream batches of windows forever; see `lawm_hf.data` for what a batch holds.

    The order depends on the seed and on the samples of an update, `batch_size * world_size *
    accumulation`, alone: each update has the same samples however they are shared.

    Args:
        sources: Specs, or opened sources.
        window: What a sample is.
        batch_size: Samples per micro-batch of this process.
        weights: Probability of each source per sample, up to a factor; equal by default.
        seed: Seed of every order.
        rank: This process, of `world_size`.
        world_size: Processes; each reads its own rows of the samples of an update.
        accumulation: Micro-batches of an update.
        num_workers: Worker processes; 0 decodes in this one, best for a small cached source.
        prefetch_factor: Batches that each worker prepares ahead.
        windows_per_visit: Windows taken per decoded clip. By default 1 for a source that fits
            `cache_bytes`, else 8.
        cache_bytes: Sources whose decoded frames take no more are kept in memory.
        max_bad_share: More bad clips than this share of a source, beyond chance, is an error.
        device: Where the pictures of a batch go, out of pinned memory and one batch ahead.

    Raises:
        ValueError: If the numbers make no sense, or the sources cannot be mixed.
    """
    if isinstance(sources, str | Source):
        sources = [sources]
    opened = [open_source(s) if isinstance(s, str) else s for s in sources]
    weights = [1.0] * len(opened) if weights is None else weights
    if len(weights) != len(opened) or min(weights, default=0) <= 0:
        raise ValueError(
            f"Each of the {len(opened)} sources needs a positive weight, got {list(weights)}."
        )
    if not 0 <= rank < world_size:
        raise ValueError(f"`rank` must lie in 0..{world_size - 1}, got {rank}.")
    readers = open_readers(opened, window, cache_bytes)
    order = Order(
        seed=seed,
        weights=tuple(w / sum(weights) for w in weights),
        windows_per_visit=tuple(windows_per_visit or (1 if r.is_cached else 8) for r in readers),
        global_batch=batch_size * world_size * accumulation,
    )
    return WindowLoader(
        readers,
        order,
        batch_size=batch_size,
        rank=rank,
        accumulation=accumulation,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor,
        max_bad_share=max_bad_share,
        device=torch.device(device),
    )


class WindowLoader:
    """Iterates batches forever; made by `make_loader`."""

    def __init__(
        self,
        readers: Sequence[WindowReader],
        order: Order,
        *,
        batch_size: int,
        rank: int,
        accumulation: int,
        num_workers: int,
        prefetch_factor: int,
        max_bad_share: float,
        device: torch.device,
    ):
        self.readers, self.order = list(readers), order
        self.batch_size, self.rank, self.accumulation = batch_size, rank, accumulation
        # A worker reads whole rows of a batch, so more workers than rows have nothing to do.
        self.num_workers = min(num_workers, batch_size * accumulation)
        self.prefetch_factor, self.max_bad_share = prefetch_factor, max_bad_share
        self.device = device
        self._visits = [
            Visits(reader, order.seed, per_visit)
            for reader, per_visit in zip(readers, order.windows_per_visit, strict=True)
        ]
        self._position = Position(0, [0] * len(readers))
        self._skipped = np.zeros(len(readers), np.int64)

    @property
    def window(self) -> WindowSpec:
        """What a sample is."""
        return self.readers[0].window

    @property
    def sources(self) -> list[Source]:
        """The opened sources."""
        return [reader.source for reader in self.readers]

    def stream(self) -> WindowStream:
        """What the workers run, from the batch that is under way."""
        workers, done = max(1, self.num_workers), self._position.samples % self.order.global_batch
        rows = np.arange(self.order.global_batch)  # micro-batch after micro-batch, rank after rank
        rows = rows.reshape(self.accumulation, -1, self.batch_size)[:, self.rank].ravel()
        return WindowStream(
            self._visits,
            self.order,
            position=Position(self._position.samples - done, self._position.begins),
            rows=np.array_split(rows, workers),
            batches_per_piece=-(-workers // self.accumulation),
            max_bad_share=self.max_bad_share,
        )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches from where the last one consumed left off."""
        if self.num_workers:
            for reader in self.readers:
                reader.preload()  # forked workers share what is decoded before the fork
        pieces = iter(
            DataLoader(
                self.stream(),
                batch_size=None,
                collate_fn=_unchanged,
                num_workers=self.num_workers,
                prefetch_factor=self.prefetch_factor if self.num_workers else None,
                worker_init_fn=_leave_to_the_parent,
                # Its own: drawing the workers' base seed would advance the global random state, and
                # a resumed run would no longer draw the noise of the uninterrupted one.
                generator=torch.Generator(),
            )
        )
        # They come from the workers in turn.
        yield from self.batches(zip(*[pieces] * max(1, self.num_workers), strict=True))

    def batches(self, pieces: Iterable[Sequence[Piece]]) -> Iterator[dict[str, Any]]:
        """Put the rows of all workers together, and take micro-batches from them.

        What is on its way to the device is not consumed yet.
        """
        size = self.order.global_batch // self.accumulation
        done = self._position.samples % self.order.global_batch // size
        parts = micro_batches(pieces, self.accumulation, done)
        for batch, skipped in send_ahead(parts, self.device):
            self._skipped = self._skipped + skipped
            # First: whoever has seen the batch has consumed it.
            self._position.advance(self.order, size)
            yield batch

    def stats(self) -> dict[str, dict[str, np.ndarray]]:
        """Statistics of `state` and `actions` of the mixture; see `Source.stats`.

        The quantiles of a mixture are not known from those of its parts: the widest are taken.
        """
        parts = [source.stats() for source in self.sources]
        merged = {}
        for name in ("state", "actions"):
            if all(name in part for part in parts):
                merged[name] = merge_statistics([p[name] for p in parts], self.order.weights)
        return merged

    def instructions(self) -> list[str]:
        """The distinct instructions of all sources."""
        return sorted({t for s in self.sources for clip in s.clips for t in s.tasks(int(clip))})

    def epochs(self) -> dict[str, float]:
        """Effective epochs of each source, over all processes."""
        taken = self._position.windows(self.order).tolist()
        return {
            visits.reader.source.name: n / visits.total
            for n, visits in zip(taken, self._visits, strict=True)
        }

    def num_bad(self) -> dict[str, int]:
        """Windows of each source that were skipped as bad, by this process since it began."""
        names = [source.name for source in self.sources]
        return dict(zip(names, self._skipped.tolist(), strict=True))

    def progress(self) -> dict[str, float]:
        """For a log: epochs of the source that has come furthest, and windows skipped as bad."""
        return {"epoch": max(self.epochs().values()), "skipped": float(self._skipped.sum())}

    def state_dict(self) -> dict[str, Any]:
        """Where the order stands after the last batch; plain numbers, the same for all ranks."""
        return {
            "order": asdict(self.order)
            | {"sources": [s.fingerprint() for s in self.sources]},  # not names: sets may move
            "position": asdict(self._position),
            "epochs": list(self.epochs().values()),
        }

    def load_state_dict(self, state: dict[str, Any], *, next_epoch: bool = False) -> None:
        """Continue from `state`, with any number of processes and workers.

        Args:
            state: What `state_dict` of any rank returned.
            next_epoch: If the order cannot be continued (other files, another global batch), start
                with an epoch that was not begun, instead of raising.

        Raises:
            ValueError: If anything the order depends on differs, unless `next_epoch`.
        """
        changed = self._changes(state)
        if not changed:
            self._position = Position(**state["position"])
            return
        if not next_epoch:
            raise ValueError(
                f"The data order cannot be continued exactly, because {changed}. Restore it, or "
                "pass `next_epoch` to go on at the next epoch."
            )
        epochs = state.get("epochs") or [
            source["epoch"] for position in state["positions"] for source in position["sources"]
        ]
        epoch = 1 + int(max(epochs))
        logger.warning("Data restart at epoch %d, because %s.", epoch, changed)
        self._position = Position(0, [epoch * visits.total for visits in self._visits])

    def _changes(self, state: dict[str, Any]) -> str:
        """Why the order cannot be continued; empty if it can."""
        if "order" not in state:
            return "the checkpoint is of an earlier version, whose order hung on the processes"
        was, now = state["order"], json.loads(json.dumps(self.state_dict()["order"]))
        changed = [f"{key} was {was[key]} and is {now[key]}" for key in now if was[key] != now[key]]
        if was["global_batch"] != now["global_batch"]:
            changed.append(
                "batch_size × processes × gradient_accumulation_steps must stay the global batch"
            )
        size = now["global_batch"] // self.accumulation
        if not changed and state["position"]["samples"] % size:
            changed.append("it was saved amid an update, between micro-batches of another size")
        return "; ".join(changed)


def _unchanged(batch: Any) -> Any:
    return batch


def _leave_to_the_parent(worker: int) -> None:
    """What a forked worker inherits is neither copied by collecting it nor freed here.

    A decoder that is freed waits for its threads, and those are not in this process.
    """
    gc.freeze()
