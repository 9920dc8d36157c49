# SPDX-License-Identifier: Apache-2.0
"""Parameter groups, optimiser and schedule, and the check of each loss."""

from typing import Any

import torch
from torch import nn
from transformers import get_cosine_with_min_lr_schedule_with_warmup

from .args import TrainingArgs


def parameter_groups(
    module: nn.Module, learning_rate: float, weight_decay: float, overrides: dict[str, float]
) -> list[dict[str, Any]]:
    """Groups for AdamW: decay on matrices only, and other learning rates by name prefix.

    Args:
        module: Whose parameters to group.
        learning_rate: For all that no prefix matches.
        weight_decay: For tensors of two or more dimensions.
        overrides: Learning rate by parameter-name prefix.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = next((r for p, r in overrides.items() if name.startswith(p)), learning_rate)
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": r, "weight_decay": d} for (r, d), p in groups.items()]


def make_optimizer(groups: list[dict[str, Any]], args: TrainingArgs):
    """AdamW (betas of the released code) with a cosine schedule and linear warm-up.

    Returns:
        The optimiser and its scheduler; step the scheduler once per update.
    """
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
    scheduler = get_cosine_with_min_lr_schedule_with_warmup(
        optimizer,
        num_warmup_steps=min(args.warmup_steps, args.steps),
        num_training_steps=args.steps,
        min_lr_rate=args.min_lr_ratio,
    )
    return optimizer, scheduler


def check_finite(loss: torch.Tensor, step: int) -> None:
    """Stop at the first loss that is not a number.

    Raises:
        FloatingPointError: With what to try.
    """
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"The loss must stay finite, got {loss.item()} at update {step}. Lower the learning "
            "rate or the gradient norm, or resume from the last checkpoint with another seed."
        )
