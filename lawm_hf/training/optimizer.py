# SPDX-License-Identifier: Apache-2.0
"""Parameter groups, optimiser and schedule, and what a gradient needs."""

from typing import Any

import torch
from torch import nn
from transformers import get_cosine_with_min_lr_schedule_with_warmup

from ..models import LAWMPolicy
from .args import TrainingArgs


def parameter_groups(
    module: nn.Module,
    learning_rate: float,
    weight_decay: float,
    overrides: dict[str, float],
    without: tuple[str, ...] = (),
) -> list[dict[str, Any]]:
    """Groups for AdamW: decay on matrices only, and other learning rates by name prefix.

    Args:
        module: Whose parameters to group.
        learning_rate: For all that no prefix matches.
        weight_decay: For tensors of two or more dimensions.
        overrides: Learning rate by parameter-name prefix.
        without: Name prefixes of parameters that are grouped elsewhere.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad or (without and name.startswith(without)):
            continue
        rate = next((r for p, r in overrides.items() if name.startswith(p)), learning_rate)
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": r, "weight_decay": d} for (r, d), p in groups.items()]


def freeze_unused(policy: LAWMPolicy, *, sees_state: bool, learns: bool = True) -> bool:
    """Stop parameters that the data give no gradient; to be called after `parameter_groups`.

    They stay in the optimiser, which leaves them alone as it did before: its state in older
    checkpoints fits.

    Args:
        policy: The policy.
        sees_state: Whether the data have the robot's state.
        learns: Whether any gradient reaches the policy.

    Returns:
        Whether those that are left surely have a gradient in each update.
    """
    if not learns:
        policy.requires_grad_(False)
    elif not sees_state:
        policy.freeze_state()
    return policy.uses_all_parameters or not learns


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


def check_batch(policy: LAWMPolicy, samples: int) -> None:
    """Refuse a micro-batch, of all processes, that leaves the policy without a gradient.

    Raises:
        ValueError: If there is one sample where latents are standardised over the batch.
    """
    if policy.config.latent_norm == "batch" and samples < 2:
        raise ValueError(
            "`batch_size` must be 2 or more, got 1 on one process: latents are standardised over "
            "the batch, so the policy's gradient would be exactly 0. Pass --batch_size 2 or more; "
            "--gradient_accumulation_steps does not help."
        )
