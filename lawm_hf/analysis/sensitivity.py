# SPDX-License-Identifier: Apache-2.0
"""Whether the latents depend on the image and on the instruction."""

import torch
from torch import Tensor

from ..models.modeling_lawm import LAWMPolicy
from .clips import Clips, observation
from .prediction import evaluating, swap_partners


@torch.no_grad()
def input_effects(
    policy: LAWMPolicy, clips: Clips, latents: Tensor, seed: int = 0
) -> tuple[float, float]:
    """Share of the latents' variance that goes when image, or instruction, is held fixed.

    Each clip is seen once more with the instruction of another. How far the latents then move, as
    half the mean squared distance over their variance, is the total effect of the instruction
    (Jansen 1999; Saltelli et al. 2010, https://doi.org/10.1016/j.cpc.2009.09.018); compared with
    the other clip's own latents, that of the image. 0: not looked at. 1: the other input alone
    tells nothing. Both are near 1 where words mean something only in a picture.

    Args:
        policy: The policy.
        clips: Clips `M`, of two episodes at least.
        latents: Their latents, `(M, N, A)`.
        seed: Seed of the pairing.

    Returns:
        Effects of image and of instruction; zeros if the latents do not vary.
    """
    partners = torch.from_numpy(swap_partners(clips.episodes, seed))
    names = [name for name in clips.batches[0] if name.startswith("task_")]
    tasks = {n: torch.cat([batch[n] for batch in clips.batches])[partners] for n in names}
    crossed, position = [], 0
    with evaluating(policy):
        for batch in clips.batches:
            size = len(batch["task_embeds"])
            changed = batch | {n: tasks[n][position : position + size] for n in names}
            crossed.append(policy(**observation(changed, policy.device)).actions.float().cpu())
            position += size
    own, mixed = latents.double().flatten(1), torch.cat(crossed).double().flatten(1)  # (M, N*A)
    variance = own.var(0).sum().item()  # that of a pair, in expectation
    if variance < 1e-12:
        return 0.0, 0.0
    image = (mixed - own[partners]).square().sum(1).mean().item() / (2 * variance)
    instruction = (mixed - own).square().sum(1).mean().item() / (2 * variance)
    return image, instruction
