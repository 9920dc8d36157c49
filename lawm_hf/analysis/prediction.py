# SPDX-License-Identifier: Apache-2.0
"""What a pair predicts: latents, imagined frames, and the errors under own and other latents."""

from collections.abc import Iterator
from contextlib import contextmanager
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
    losses: dict[str, list[float]] = {"loss": [], "loss_swapped": []}
    errors: dict[str, list[Tensor]] = {"own": [], "swapped": [], "copy": []}  # (B, parts) each
    moving: list[tuple[float, int]] = []
    position, device = 0, next(world_model.parameters()).device
    with evaluating(world_model):
        for batch in clips.batches:
            frames = batch["frames"].to(device)
            size, num_frames = frames.shape[:2]
            pad = batch.get("frame_is_pad", torch.zeros(size, num_frames, dtype=torch.bool))
            pad = pad.to(device)
            noise = world_model.draw_noise(frames, generator)
            states, start = states_of(batch, device)
            images = frames.float() / (255 if frames.dtype == torch.uint8 else 1)
            first, targets = images[:, :1], images[:, 1:]
            rows = slice(position, position + size)
            position += size
            for name, source in (("", latents), ("_swapped", swapped)):
                actions = source[rows].to(device)
                output = world_model(
                    frames=frames, actions=actions, frame_is_pad=pad, **states, **noise
                )
                losses[f"loss{name}"].append(output.loss.item() * size)
                drawn = world_model.predict_frames(frames[:, 0], actions, **start)
                parts = view_errors(world_model, drawn, targets, first, pad)
                if states:
                    told = world_model.predict_states(frames[:, 0], actions, **start)
                    parts.append(state_errors(told, states["frame_states"], pad))
                errors[name.strip("_") or "own"].append(torch.stack(parts, 1))
                if source is latents:
                    main = [video[:, :, :3] for video in (drawn, targets, first)]
                    moving.append(moving_errors(main[0], main[1], main[2], pad))
            still = first.expand_as(targets)
            parts = view_errors(world_model, still, targets, first, pad)
            if states:
                same = states["frame_states"][:, :1].expand_as(states["frame_states"][:, 1:])
                parts.append(state_errors(same, states["frame_states"], pad))
            errors["copy"].append(torch.stack(parts, 1))
    told = {name: torch.cat(rows).cpu() for name, rows in errors.items()}  # (M, parts)
    num_views = clips.batches[0]["frames"].shape[2] // 3
    names = [f"view {v + 1}" for v in range(num_views)]
    names += ["state"] if clips.first_state else []
    own, other, still = (told[name][:, :num_views].sum(1) for name in ("own", "swapped", "copy"))
    return {
        "loss": sum(losses["loss"]) / position,
        "loss_swapped": sum(losses["loss_swapped"]) / position,
        "imagined_error": own.mean().item(),
        "imagined_error_swapped": other.mean().item(),
        "swap_gap_standard_error": ((other - own).std() / len(own) ** 0.5).item(),
        "copy_error": still.mean().item(),
        "moving_psnr": psnr(*np.sum(moving, 0)),
        "parts": {
            part: {name: rows[:, i].mean().item() for name, rows in told.items()}
            for i, part in enumerate(names if len(names) > 1 else [])
        },
    }


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


def clip_errors(
    world_model: LAWMWorldModel, drawn: Tensor, targets: Tensor, first: Tensor, pad: Tensor
) -> Tensor:
    """Error of each clip `(B,)` in the world model's own measure, padded frames left out."""
    return torch.stack(view_errors(world_model, drawn, targets, first, pad)).sum(0)


def view_errors(
    world_model: LAWMWorldModel, drawn: Tensor, targets: Tensor, first: Tensor, pad: Tensor
) -> list[Tensor]:
    """The same of each view: `V` times `(B,)`."""
    weight = getattr(world_model.config, "motion_weight", 0.0)
    views = zip(drawn.split(3, 2), targets.split(3, 2), first.split(3, 2), strict=True)
    return [_clip_mean(frame_error(d, t, f, weight), pad) for d, t, f in views]


def state_errors(drawn: Tensor, states: Tensor, pad: Tensor) -> Tensor:
    """Squared error of the states of each clip `(B,)`, from those after `x_t`, `(B, N, P)`."""
    return _clip_mean((drawn.float() - states[:, 1:]).square().sum(-1), pad)


def _clip_mean(error: Tensor, pad: Tensor) -> Tensor:
    error = error.masked_fill(pad[:, 1:], 0)  # (B, N)
    return error.sum(1) / (~pad[:, 1:]).sum(1).clamp(min=1)
