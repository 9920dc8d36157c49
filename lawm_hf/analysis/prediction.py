# SPDX-License-Identifier: Apache-2.0
"""What a pair predicts: latents, imagined frames, and the errors under own and other latents."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..models.modeling_lawm import LAWMPolicy, LAWMWorldModel
from ..models.modeling_outputs import frame_error
from .clips import Clips, observation


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, whatever it was outside."""
    modes = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)


@torch.no_grad()
def latents_of(policy: LAWMPolicy, clips: Clips) -> Tensor:
    """Latent actions of all clips, `(M, N, A)` on the CPU."""
    with evaluating(policy):
        parts = [policy(**observation(b, policy.device)).actions for b in clips.batches]
    return torch.cat([part.float().cpu() for part in parts])


def swap_partners(episodes: np.ndarray, seed: int = 0) -> np.ndarray:
    """For each clip the number of one from another episode, `(M,)`; each is used once.

    Raises:
        ValueError: If one episode has more than half of the clips.
    """
    _, labels, counts = np.unique(episodes, return_inverse=True, return_counts=True)
    most = int(counts.max())
    if 2 * most > len(episodes):
        raise ValueError(
            f"Swapping needs clips of different episodes, but {most} of {len(episodes)} are of "
            "one. Take fewer windows from each episode."
        )
    shuffled = np.random.default_rng(seed).permutation(len(counts))
    order = np.argsort(shuffled[labels], kind="stable")  # episodes in random order
    partners = np.empty(len(episodes), dtype=int)
    partners[order] = np.roll(order, most)
    return partners


@torch.no_grad()
def prediction_errors(
    world_model: LAWMWorldModel, clips: Clips, latents: Tensor, seed: int
) -> dict[str, Any]:
    """Losses under own and swapped latents, and the error of copying `x_t`.

    Errors are summed over the views, and beside them stand those of each part, if there are several
    views or states; `moving_psnr` is of the main view.
    """
    swapped = latents[torch.from_numpy(swap_partners(clips.episodes, seed))]
    generator = torch.Generator().manual_seed(seed)
    found: list[dict[str, Any]] = []
    sizes = [len(batch["frames"]) for batch in clips.batches]
    with evaluating(world_model):
        actions = zip(latents.split(sizes), swapped.split(sizes), strict=True)
        for batch, (own, other) in zip(clips.batches, actions, strict=True):
            both = {"own": own, "swapped": other}
            found.append(_batch_errors(world_model, batch, both, generator))
    told = {
        name: torch.cat([errors[name] for errors in found]).cpu()  # (M, parts)
        for name in ("own", "swapped", "copy")
    }
    num_views = clips.batches[0]["frames"].shape[2] // 3
    names = [f"view {v + 1}" for v in range(num_views)]
    names += ["state"] if clips.first_state else []
    own, other, still = (rows[:, :num_views].sum(1) for rows in told.values())
    return {
        "loss": sum(errors["own_loss"] for errors in found) / len(latents),
        "loss_swapped": sum(errors["swapped_loss"] for errors in found) / len(latents),
        "imagined_error": own.mean().item(),
        "imagined_error_swapped": other.mean().item(),
        "swap_gap_standard_error": ((other - own).std() / len(own) ** 0.5).item(),
        "copy_error": still.mean().item(),
        "moving_psnr": psnr(*np.sum([errors["moving"] for errors in found], 0)),
        "parts": {
            part: {name: rows[:, i].mean().item() for name, rows in told.items()}
            for i, part in enumerate(names if len(names) > 1 else [])
        },
    }


def _batch_errors(
    world_model: LAWMWorldModel,
    batch: dict[str, Tensor],
    latents: dict[str, Tensor],
    generator: torch.Generator,
) -> dict[str, Any]:
    """Of a batch: errors `(B, parts)` and summed loss under each of the latents, and of a copy."""
    device = next(world_model.parameters()).device
    frames = batch["frames"].to(device)
    pad = batch.get("frame_is_pad", torch.zeros(frames.shape[:2], dtype=torch.bool)).to(device)
    noise = world_model.draw_noise(frames, generator)
    states, start = states_of(batch, device)
    images = frames.float() / (255 if frames.dtype == torch.uint8 else 1)
    first, targets = images[:, :1], images[:, 1:]
    seen = states.get("frame_states")
    later, now = (None, None) if seen is None else (seen[:, 1:], seen[:, :1])
    judge = partial(part_errors, world_model, targets=targets, first=first, pad=pad, states=later)
    found: dict[str, Any] = {"copy": judge(first.expand_as(targets), told=now)}
    for name, some in latents.items():
        actions = some.to(device)
        output = world_model(frames=frames, actions=actions, frame_is_pad=pad, **states, **noise)
        found[f"{name}_loss"] = output.loss.item() * len(frames)
        drawn = world_model.predict_frames(frames[:, 0], actions, **start)
        told = world_model.predict_states(frames[:, 0], actions, **start) if states else None
        found[name] = judge(drawn, told=told)
        if name == "own":
            found["moving"] = moving_errors(
                drawn[:, :, :3], targets[:, :, :3], first[:, :, :3], pad
            )
    return found


def states_of(
    batch: dict[str, Tensor], device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """States of a batch as `forward` and as `predict_frames` take them; empty without."""
    if "frame_states" not in batch:
        return {}, {}
    states = batch["frame_states"].to(device)
    return {"frame_states": states}, {"first_state": states[:, 0]}


def moving_errors(drawn: Tensor, targets: Tensor, first: Tensor, pad: Tensor) -> tuple[float, int]:
    """Sum of squared errors over the pixels that move, and how many numbers those are.

    A pixel moves if a channel of it differs from `x_t` by more than 0.1.
    """
    moves = (targets - first).abs().amax(2, keepdim=True) > 0.1
    moves = (moves & ~pad[:, 1:, None, None, None]).expand_as(targets)
    error = (drawn.float().clamp(0, 1) - targets).square().masked_fill(~moves, 0)
    return error.sum().item(), int(moves.sum())


def psnr(squared_error: float, count: float) -> float | None:
    """Peak signal-to-noise ratio in dB of numbers in [0, 1]; `None` of none."""
    if not count:
        return None
    return float(-10 * np.log10(max(squared_error / count, 1e-12)))


def part_errors(
    world_model: LAWMWorldModel,
    drawn: Tensor,
    targets: Tensor,
    first: Tensor,
    pad: Tensor,
    told: Tensor | None = None,
    states: Tensor | None = None,
) -> Tensor:
    """Error `(B, parts)` of each view of a clip and of its state, in the world model's measure.

    Args:
        world_model: Whose measure.
        drawn: Frames, `(B, N, V*C, H, W)`.
        targets: What they should have been.
        first: `x_t`, `(B, 1, V*C, H, W)`.
        pad: `(B, N+1)`; padded frames are left out.
        told: The robot's states that were predicted, `(B, N, P)` or one for all; or none.
        states: What they should have been, `(B, N, P)`.
    """
    weight = getattr(world_model.config, "motion_weight", 0.0)
    views = zip(drawn.split(3, 2), targets.split(3, 2), first.split(3, 2), strict=True)
    errors = [frame_error(d, t, f, weight) for d, t, f in views]  # (B, N) each
    if told is not None and states is not None:
        errors.append((told.float() - states).square().sum(-1))
    by_step = torch.stack(errors, -1).masked_fill(pad[:, 1:, None], 0)
    return by_step.sum(1) / (~pad[:, 1:]).sum(1, keepdim=True).clamp(min=1)
