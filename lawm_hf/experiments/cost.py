# SPDX-License-Identifier: Apache-2.0
"""What a stage would cost: its true models and shapes, run once on noise, and torch's own count."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..models import LawmForPretraining, LAWMPolicy
from ..training.throughput import peak_flops

# The GPUs to estimate for, and the share of their dense bf16 peak that training is taken to reach.
# Assumptions: nothing of this was run on a GPU.
GPUS = ("A100", "H100")
UTILIZATION = 0.3
_BATCH_SIZE = 2  # of the noise: the latent norm needs more than one


@dataclass(frozen=True)
class TrainingCost:
    """Cost of a training stage.

    Attributes:
        parameters: Of each trained model.
        shapes: Of each input, for one process.
        updates: Of the optimiser.
        windows: Windows of video or demonstrations it trains on, all updates together.
        flops_per_window: Floating-point operations, forward and backward.
    """

    parameters: dict[str, int]
    shapes: dict[str, tuple[int, ...]]
    updates: int
    windows: int
    flops_per_window: float

    @property
    def flops(self) -> float:
        """Of the whole stage."""
        return self.flops_per_window * self.windows

    def gpu_hours(self, gpu: str) -> float:
        """Hours of one GPU at the assumed utilisation, if data come fast enough."""
        peak = peak_flops(gpu)
        assert peak is not None, f"training/throughput.py has no peak of {gpu}"
        return self.flops / (UTILIZATION * peak) / 3600


def training_cost(
    model: nn.Module, batch: dict[str, Tensor], batch_size: int, updates: int
) -> TrainingCost:
    """Run forward and backward on a small batch, and count.

    Args:
        model: A policy, or a pair for pretraining.
        batch: Its inputs; see `pretraining_batch` and `demonstration_batch`.
        batch_size: Windows per update, all processes together.
        updates: Updates of the stage.
    """
    parts: dict[str, Any] = {"policy": getattr(model, "policy", model)}
    if isinstance(model, LawmForPretraining):
        parts["world model"] = model.world_model
    with FlopCounterMode(display=False) as counter:
        model.train()(**batch).loss.backward()
    small = len(next(iter(batch.values())))
    return TrainingCost(
        parameters={name: part.num_parameters() for name, part in parts.items()},
        shapes={key: (batch_size, *value.shape[1:]) for key, value in batch.items()},
        updates=updates,
        windows=batch_size * updates,
        flops_per_window=counter.get_total_flops() / small,
    )


def pretraining_batch(model: LawmForPretraining) -> dict[str, Tensor]:
    """Noise in the shape of what joint pretraining takes: the policy sees one view."""
    world: Any = model.world_model.config
    shape = _BATCH_SIZE, model.policy.config.chunk_size + 1
    channels = 3 * world.num_views
    size = (channels, world.image_size, world.image_size)
    batch = {"frames": torch.randint(0, 256, (*shape, *size), dtype=torch.uint8)}
    if world.state_size:
        batch["frame_states"] = torch.rand(*shape, world.state_size) * 2 - 1
    return _observation(model.policy, num_views=1) | batch


def demonstration_batch(policy: LAWMPolicy, num_views: int = 2) -> dict[str, Tensor]:
    """Noise in the shape of what behaviour cloning takes: views, and the state if there is."""
    c = policy.config
    batch = _observation(policy, num_views)
    if c.state_size:
        batch["state"] = torch.randn(_BATCH_SIZE, c.state_size)
    batch["actions"] = torch.rand(_BATCH_SIZE, c.chunk_size, c.action_size) * 2 - 1
    return batch


def _observation(policy: LAWMPolicy, num_views: int) -> dict[str, Tensor]:
    c = policy.config
    batch = {
        "pixel_values": torch.randn(_BATCH_SIZE, num_views, 3, c.image_size, c.image_size),
        "task_embeds": torch.randn(_BATCH_SIZE, c.task_embed_size),
    }
    if c.num_task_tokens:
        batch["task_tokens"] = torch.ones(_BATCH_SIZE, c.num_task_tokens, dtype=torch.long)
    return batch
