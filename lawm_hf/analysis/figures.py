# SPDX-License-Identifier: Apache-2.0
"""Pictures of what a pretrained pair has learned."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..models.modeling_lawm import LAWMPolicy
from .clips import Clips
from .prediction import evaluating, imagine_frames, latents_of, swap_partners

_ROWS = ("video", "seen and\nredrawn", "imagined,\nown latents", "imagined,\nother latents")


def imagination_strip(
    policy: LAWMPolicy,
    world_model: Any,
    clips: Clips,
    path: str | Path,
    num_clips: int = 3,
    seed: int = 0,
) -> Path:
    """Write a PNG that shows whether the latent actions steer the world model.

    For each clip: the real frames; the world model's drawing of each after seeing it; its
    prediction from `x_t` under the clip's own latents; and under those of another clip (of another
    instruction, if there is one). If the last two rows look alike, the latents mean nothing.

    Args:
        policy: The policy.
        world_model: The world model.
        clips: Clips to choose from, of two episodes at least.
        path: Where the picture goes.
        num_clips: Clips shown, evenly spaced.
        seed: Seed of the swap.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    titles: list[str] = list(_ROWS)
    if getattr(world_model.config, "objective", "posterior") == "imagination":
        titles[1] += "\n(not trained)"  # this objective uses the posterior of x_t only
    partners = swap_partners(clips.episodes, seed)
    _prefer_other_instructions(partners, clips)
    chosen = np.linspace(0, len(clips) - 1, min(num_clips, len(clips))).round().astype(int)
    latents = latents_of(policy, clips)
    frames = torch.cat([batch["frames"] for batch in clips.batches])[torch.from_numpy(chosen)]
    own, other = latents[chosen], latents[partners[chosen]]
    rows = _strip_rows(world_model, frames, own, other)  # (clips, 4, N+1, H, W, C)

    figure = Figure(figsize=(1.5 + 0.8 * rows.shape[2], 3.9 * len(chosen)), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, clip, images in zip(
        np.atleast_1d(figure.subplots(len(chosen), 1)), chosen, rows, strict=True
    ):
        picture, row_centres, column_centres = _tiled(images)
        axis.imshow(picture, interpolation="nearest")
        own_task, other_task = clips.tasks[clip], clips.tasks[partners[clip]]
        axis.set_title(
            textwrap.shorten(f"“{own_task}”   (other: “{other_task}”)", 100), fontsize=11
        )
        steps = ["$x_t$", *(f"+{k}" for k in range(1, rows.shape[2]))]
        axis.set_xticks(column_centres, steps)
        axis.set_yticks(row_centres, titles)
        axis.tick_params(length=0, labelsize=10, labeltop=True, labelbottom=False)
        axis.spines[:].set_visible(False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    return path


@torch.no_grad()
def _strip_rows(world_model: Any, frames: Tensor, own: Tensor, other: Tensor) -> np.ndarray:
    """Pictures `(clips, 4, N+1, H, W, C)` in [0, 1] of the four rows."""
    device = next(world_model.parameters()).device
    frames, own, other = frames.to(device), own.to(device), other.to(device)
    images = frames.float() / (255 if frames.dtype == torch.uint8 else 1)
    first = images[:, :1]
    with evaluating(world_model):
        seen = world_model.observe(world_model.encode(frames), own)
        redrawn = world_model.decode(seen, first_frame=frames[:, 0])
        imagined = [
            torch.cat([first, imagine_frames(world_model, frames, latents)], 1)
            for latents in (own, other)
        ]
    rows = torch.stack([images, redrawn, *imagined], 1).clamp(0, 1)
    return rows.movedim(-3, -1).cpu().numpy()


def _tiled(images: np.ndarray, gap: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One picture of `(R, T, H, W, C)` images on white; centres of its rows and columns.

    A single picture, since matplotlib takes seconds to lay out a hundred axes.
    """
    margins = ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0))
    padded = np.pad(images, margins, constant_values=1.0)
    num_rows, num_columns, height, width, _ = padded.shape
    picture = padded.swapaxes(1, 2).reshape(num_rows * height, num_columns * width, -1)
    rows, columns = (
        np.arange(n) * s + (s - gap - 1) / 2 for n, s in ((num_rows, height), (num_columns, width))
    )
    return picture[:-gap, :-gap], rows, columns


def _prefer_other_instructions(partners: np.ndarray, clips: Clips) -> None:
    """Follow the swap from clip to clip, in place, until the instruction differs."""
    following = partners.copy()
    for clip, task in enumerate(clips.tasks):
        other = following[clip]
        for _ in clips.tasks:
            if clips.tasks[other] != task:
                partners[clip] = other
                break
            other = following[other]
