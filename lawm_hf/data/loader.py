# SPDX-License-Identifier: Apache-2.0
"""The loader of the recipes: a `DataLoader` over a `WindowStream` that knows where it is.

Do not pass it through `accelerator.prepare`: Accelerate would read on rank 0 and broadcast, or
split a second time what is split already. Give it `rank` and `world_size`, and move the batches
yourself.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from .source import Source, merge_statistics
from .spec import open_source
from .stream import Order, Position, WindowStream
from .window import WindowReader, WindowSpec

logger = logging.getLogger(__name__)


def make_loader(
    sources: str | Source | Sequence[str | Source],
    window: WindowSpec,
    batch_size: int,
    *,
    weights: Sequence[float] | None = None,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    prefetch_factor: int = 4,
    windows_per_visit: int | None = None,
    visits_per_block: int = 64,
    cache_bytes: int = 4 << 30,
    max_bad_share: float = 0.05,
    pin_memory: bool = False,
) -> "WindowLoader":
    """Stream batches of windows forever; see `lawm_hf.data` for what a batch holds.

    Args:
        sources: Specs, or opened sources.
        window: What a sample is.
        batch_size: Samples per batch, of this process.
        weights: Probability of each source per sample, up to a factor; equal by default.
        seed: Seed of every order.
        rank: This process, of `world_size`.
        world_size: Processes; none repeats another's sample within an epoch.
        num_workers: Worker processes; 0 decodes in this one, best for a small cached source.
        prefetch_factor: Batches that each worker prepares ahead.
        windows_per_visit: Windows taken per decoded clip. By default 1 for a source that fits
            `cache_bytes`, else 8.
        visits_per_block: Visits whose windows are shuffled together; memory grows with it.
        cache_bytes: Sources whose decoded frames take no more are kept in memory.
        max_bad_share: More bad windows than this share of a source is an error.
        pin_memory: See `DataLoader`.

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
    readers = _open_readers(opened, window, cache_bytes)
    order = Order(
        seed=seed,
        weights=tuple(w / sum(weights) for w in weights),
        num_parts=world_size * max(1, num_workers),
        windows_per_visit=tuple(windows_per_visit or (1 if r.is_cached else 8) for r in readers),
        visits_per_block=visits_per_block,
    )
    return WindowLoader(
        readers,
        order,
        batch_size=batch_size,
        rank=rank,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor,
        max_bad_share=max_bad_share,
        pin_memory=pin_memory,
    )


def _open_readers(
    sources: Sequence[Source], window: WindowSpec, cache_bytes: int
) -> list[WindowReader]:
    """Readers whose samples stack: one number of views, and a state only if all have one alike."""
    state_sizes = {s.features.state_size for s in sources}
    if window.with_state and len(state_sizes) > 1:
        logger.warning("The sources' states have sizes %s: no state is loaded.", state_sizes)
    readers = [
        WindowReader(
            source,
            window,
            with_state=window.with_state and len(state_sizes) == 1,
            cache_bytes=cache_bytes,
            source_index=i,
        )
        for i, source in enumerate(sources)
    ]
    if len({len(r.views) for r in readers}) > 1:
        found = "; ".join(f"{r.source.name}: {', '.join(r.views)}" for r in readers)
        raise ValueError(
            f"Mixed sources need one number of views, got {found}. Choose with `views`, or in a "
            "spec with `views=a+b`."
        )
    if window.with_actions and len({s.features.action_size for s in sources}) > 1:
        sizes = [s.features.action_size for s in sources]
        raise ValueError(f"Mixed sources need actions of one size, got {sizes}.")
    return readers


class WindowLoader:
    """Iterates batches forever; made by `make_loader`."""

    def __init__(
        self,
        readers: Sequence[WindowReader],
        order: Order,
        *,
        batch_size: int,
        rank: int,
        num_workers: int,
        prefetch_factor: int,
        max_bad_share: float,
        pin_memory: bool,
    ):
        self.readers, self.order = list(readers), order
        self.batch_size, self.rank, self.num_workers = batch_size, rank, num_workers
        self.prefetch_factor, self.max_bad_share = prefetch_factor, max_bad_share
        self.pin_memory = pin_memory
        self._next_worker = 0
        self._positions = [self._start(0) for _ in range(max(1, num_workers))]

    def _start(self, epoch: int) -> dict[str, Any]:
        at = asdict(Position(epoch=epoch, progress=float(epoch)))
        return {"samples": 0, "sources": [dict(at) for _ in self.readers]}

    @property
    def window(self) -> WindowSpec:
        """What a sample is."""
        return self.readers[0].window

    @property
    def sources(self) -> list[Source]:
        """The opened sources."""
        return [reader.source for reader in self.readers]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches from where the last one consumed left off."""
        workers = max(1, self.num_workers)
        stream = WindowStream(
            self.readers,
            self.order,
            batch_size=self.batch_size,
            rank=self.rank,
            num_workers=workers,
            positions=self._positions,
            first_worker=self._next_worker,
            max_bad_share=self.max_bad_share,
        )
        if self.num_workers:
            for reader in self.readers:
                reader.preload()  # forked workers share what is decoded before the fork
        loader = DataLoader(
            stream,
            batch_size=None,
            collate_fn=_unchanged,
            num_workers=self.num_workers,
            prefetch_factor=self.prefetch_factor if self.num_workers else None,
            pin_memory=self.pin_memory,
            # Its own: drawing the workers' base seed would advance the global random state, and
            # a resumed run would no longer draw the noise of the uninterrupted one.
            generator=torch.Generator(),
        )
        for worker, position, batch in loader:
            # Set before the batch is handed out: whoever has seen it has consumed it.
            self._positions = list(self._positions)
            self._positions[worker] = position
            self._next_worker = (worker + 1) % workers
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
        """Effective epochs of each source, the mean over this process's workers."""
        return {
            reader.source.name: sum(p["sources"][i]["progress"] for p in self._positions)
            / len(self._positions)
            for i, reader in enumerate(self.readers)
        }

    def num_bad(self) -> dict[str, int]:
        """Windows of each source that were skipped as bad, by this process."""
        return {
            reader.source.name: sum(p["sources"][i]["bad"] for p in self._positions)
            for i, reader in enumerate(self.readers)
        }

    def _settings(self) -> dict[str, Any]:
        order = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.order).items()}
        return {
            **order,
            "rank": self.rank,
            "num_workers": self.num_workers,
            "sources": [s.fingerprint() for s in self.sources],  # not their names: sets may move
        }

    def state_dict(self) -> dict[str, Any]:
        """Where this process is after the last batch it got; plain numbers and strings."""
        return {
            "settings": self._settings(),
            "next_worker": self._next_worker,
            "positions": self._positions,
        }

    def load_state_dict(self, state: dict[str, Any], *, next_epoch: bool = False) -> None:
        """Continue from `state`.

        Args:
            state: What `state_dict` of the same rank returned.
            next_epoch: If the order cannot be continued (another number of processes or workers,
                other files), start with an epoch that was not begun, instead of raising.

        Raises:
            ValueError: If anything the order depends on differs, unless `next_epoch`.
        """
        was, now = state["settings"], self._settings()
        changed = [f"{k}: {was.get(k)} → {now[k]}" for k in now if was.get(k) != now[k]]
        if not changed:
            self._next_worker, self._positions = state["next_worker"], state["positions"]
            return
        if not next_epoch:
            raise ValueError(
                "The data order cannot be continued exactly, because this changed: "
                f"{'; '.join(changed)}. Restore it, or pass `next_epoch=True` to go on at the next "
                "epoch."
            )
        epoch = 1 + max(s["epoch"] for p in state["positions"] for s in p["sources"])
        logger.warning("Data restart at epoch %d, because of %s.", epoch, "; ".join(changed))
        self._next_worker = 0
        self._positions = [self._start(epoch) for _ in self._positions]


def _unchanged(batch: Any) -> Any:
    return batch
