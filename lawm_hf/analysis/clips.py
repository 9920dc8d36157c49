# SPDX-License-Identifier: Apache-2.0
"""The clips an analysis looks at: model inputs, and what is truly known about each clip."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ..data import WindowDataset, collate
from ..models import LAWMProcessor, LAWMWorldModel

# Of the batch contract, what the world model and the losses take rather than the policy.
_NOT_OBSERVED = ("frames", "frame_states", "frame_is_pad", "actions", "action_is_pad")
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
        later: For some steps `k`, the policy's observation at `x_{t+k}`, in batches.
    """

    batches: list[dict[str, Tensor]]
    tasks: list[str]
    episodes: np.ndarray
    truth: dict[str, np.ndarray] = field(default_factory=dict)
    later: dict[int, list[dict[str, Tensor]]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def frames(self) -> Tensor:
        """`x_t .. x_{t+N}` of all clips, `(M, N+1, V*C, H, W)`, floats in [0, 1]."""
        frames = torch.cat([batch["frames"] for batch in self.batches])
        return frames.float() / (255 if frames.dtype == torch.uint8 else 1)

    @property
    def first_state(self) -> dict[str, Tensor]:
        """The robot's state beside `x_t`, `(M, P)`, by the name that world models take; or none."""
        states = [b["frame_states"][:, 0] for b in self.batches if "frame_states" in b]
        return {"first_state": torch.cat(states)} if states else {}

    @property
    def frame_is_pad(self) -> Tensor:
        """Which of them only repeat the episode's last frame, `(M, N+1)`."""
        pads = [
            batch.get("frame_is_pad", torch.zeros(batch["frames"].shape[:2], dtype=torch.bool))
            for batch in self.batches
        ]
        return torch.cat(pads)


def predicted(world_model: LAWMWorldModel) -> dict[str, Any]:
    """What a world model predicts besides the main camera's frames, as options of `WindowSpec`."""
    config = world_model.config
    return {
        "frame_views": config.num_views,
        "with_frame_states": config.state_size > 0,
    }


def observation(batch: dict[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    """The policy's part of a batch, on a device."""
    return {key: value.to(device) for key, value in batch.items() if key not in _NOT_OBSERVED}


def load_clips(
    dataset: WindowDataset,
    processor: LAWMProcessor,
    num_clips: int | None = None,
    batch_size: int = 50,
    later: Sequence[int] = (),
) -> Clips:
    """Read evenly spaced windows, and the truth where the dataset holds it.

    For the tabletop record with actions, and use `WindowSpec(with_frames=True, with_actions=True,
    max_start=0)`: one window for each episode.

    Args:
        dataset: Windows with frames.
        processor: The processor of the models that will be looked at.
        num_clips: How many; all by default.
        batch_size: Clips per batch.
        later: Steps `k` for which `Clips.later` is wanted. The picture is the main camera's frame
            of the window, so it needs samples of one view; where the policy sees several, none is
            kept.
    """
    if not dataset.window.with_frames:
        raise ValueError(
            "`load_clips` needs windows with frames. Use `WindowSpec(with_frames=True)`."
        )
    count = min(num_clips or len(dataset), len(dataset))
    chosen = np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist()
    # Once each: in the place of a bad clip stands the next one.
    samples = list(
        {tuple(s["index"].tolist()): s for s in map(dataset.__getitem__, chosen)}.values()
    )
    batches, tasks, indices, actions = [], [], [], []
    looks: dict[int, list[dict[str, Tensor]]] = {}
    for start in range(0, len(samples), batch_size):
        raw: dict[str, Any] = collate(samples[start : start + batch_size])
        tasks += raw["task"]
        indices.append(np.asarray(raw.pop("index")))
        if "actions" in raw:
            actions.append(np.asarray(raw.pop("actions")))
            raw.pop("action_is_pad")
        if processor.state_stats is None:
            raw.pop("state", None)
        batches.append(processor(**raw))
        for step in later if raw["images"].shape[1] == 1 else ():
            look = raw["frames"][:, step]  # (B, C, H, W), or (B, V, C, H, W)
            look = processor(
                images=look[:, :1] if look.ndim == 5 else look[:, None], task=raw["task"]
            )
            looks.setdefault(step, []).append(look)
    index = np.concatenate(indices)  # (M, 3): source, episode, frame
    truth = read_truth(dataset, index)
    if actions:
        truth["actions"] = np.concatenate(actions).astype(np.float64)
    return Clips(batches, tasks, index[:, 1], truth, looks)


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
