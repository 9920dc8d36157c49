# SPDX-License-Identifier: Apache-2.0
"""The clips an analysis looks at: model inputs, and what is truly known about each clip."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ..data import WindowDataset, collate
from ..models import LAWMProcessor

# Of the batch contract, what the world model and the losses take rather than the policy.
_NOT_OBSERVED = ("frames", "frame_is_pad", "actions", "action_is_pad")
TRUTH_FILE = "meta/tabletop_truth.parquet"


@dataclass
class Clips:
    """`M` windows of video, in batches as the models take them.

    Args:
        batches: Outputs of the processor, with `frames`.
        tasks: The `M` instructions.
        episodes: Episode of each clip, `(M,)`; clips of one episode are never swapped.
        truth: What is known beyond the video, for those who have it: `actions` `(M, N, D)` in any
            units, `target_xy` `(M, 2)`, `objects_xy` `(M, K, 2)`, `target_index` `(M,)`.
    """

    batches: list[dict[str, Tensor]]
    tasks: list[str]
    episodes: np.ndarray
    truth: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tasks)


def observation(batch: dict[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    """The policy's part of a batch, on a device."""
    return {key: value.to(device) for key, value in batch.items() if key not in _NOT_OBSERVED}


def load_clips(
    dataset: WindowDataset,
    processor: LAWMProcessor,
    num_clips: int | None = None,
    batch_size: int = 50,
) -> Clips:
    """Read evenly spaced windows, and the truth where the data set holds it.

    For the tabletop record with actions, and use `WindowSpec(with_frames=True, with_actions=True,
    max_start=0)`: one window for each episode.

    Args:
        dataset: Windows with frames.
        processor: The processor of the models that will be looked at.
        num_clips: How many; all by default.
        batch_size: Clips per batch.
    """
    if not dataset.window.with_frames:
        raise ValueError(
            "`load_clips` needs windows with frames. Use `WindowSpec(with_frames=True)`."
        )
    count = min(num_clips or len(dataset), len(dataset))
    chosen = np.linspace(0, len(dataset) - 1, count).round().astype(int)
    batches, tasks, indices, actions = [], [], [], []
    for start in range(0, count, batch_size):
        raw: dict[str, Any] = collate([dataset[int(i)] for i in chosen[start : start + batch_size]])
        tasks += raw["task"]
        indices.append(np.asarray(raw.pop("index")))
        if "actions" in raw:
            actions.append(np.asarray(raw.pop("actions")))
            raw.pop("action_is_pad")
        if processor.state_stats is None:
            raw.pop("state", None)
        batches.append(processor(**raw))
    index = np.concatenate(indices)  # (M, 3): source, episode, frame
    truth = read_truth(dataset, index)
    if actions:
        truth["actions"] = np.concatenate(actions).astype(np.float64)
    return Clips(batches, tasks, index[:, 1], truth)


def read_truth(dataset: WindowDataset, index: np.ndarray) -> dict[str, np.ndarray]:
    """Where the target and the other objects stood at frame x_t; empty if this is not known.

    Args:
        dataset: The windows.
        index: `(M, 3)`: source, episode and frame of each clip.
    """
    store = getattr(dataset.source, "store", None)
    path = Path(getattr(store, "root", ""), TRUTH_FILE)
    if store is None or not path.is_file():
        return {}
    table = pq.read_table(path)
    episodes, frames = (table[key].to_numpy() for key in ("episode_index", "frame_index"))
    rows = {
        key: row for row, key in enumerate(zip(episodes.tolist(), frames.tolist(), strict=True))
    }
    wanted = [rows[episode, frame] for _, episode, frame in index.tolist()]
    table = table.take(wanted)
    keys = ("target_xy", "objects_xy", "target_index")
    return {key: np.array(table[key].to_pylist()) for key in keys}
