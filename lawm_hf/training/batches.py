# SPDX-License-Identifier: Apache-2.0
"""Batches on their way from loaders to a model."""

from typing import Any


class FocusedLoader:
    """Batches of one loader first, then of another; its position is that of both.

    Finetuning starts on the first frames of each episode: there the instruction decides where to
    go. Among all frames they are few, and words bind to objects late or never.
    """

    def __init__(self, focus: Any, full: Any, focus_updates: int):
        self.loaders, self.accumulation = (focus, full), full.accumulation
        self.focus_batches, self.count = focus_updates * full.accumulation, 0

    def __iter__(self):
        streams = [iter(loader) for loader in self.loaders]
        while True:
            batch = next(streams[self.count >= self.focus_batches])
            self.count += 1
            yield batch

    def progress(self) -> dict[str, float]:
        """See `WindowLoader.progress`."""
        focus, full = (loader.progress() for loader in self.loaders)
        return {key: focus[key] + full[key] for key in full}

    def state_dict(self) -> dict[str, Any]:
        """Position after the last batch that was handed out."""
        states = [loader.state_dict() for loader in self.loaders]
        return {"updates": self.count / self.accumulation, "loaders": states}

    def load_state_dict(self, state: dict[str, Any], *, next_epoch: bool = False) -> None:
        """Continue from a position."""
        for loader, position in zip(self.loaders, state["loaders"], strict=True):
            loader.load_state_dict(position, next_epoch=next_epoch)
        updates = state.get("updates", state.get("count"))  # `count`: of an earlier version
        self.count = round(updates * self.accumulation)
