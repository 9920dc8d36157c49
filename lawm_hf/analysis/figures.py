# SPDX-License-Identifier: Apache-2.0
"""Pictures of what a pretrained pair has learned."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..models.modeling_lawm import LAWMPolicy, LAWMWorldModel
from .clips import Clips
from .latents import Array
from .prediction import evaluating, latents_of, states_of, swap_partners
from .retrieval import neighbours

_ROWS = ("video", "imagined,\nown latents", "imagined,\nother latents", "seen and\nredrawn")


def imagination_strip(
    policy: LAWMPolicy,
    world_model: LAWMWorldModel,
    clips: Clips,
    path: str | Path,
    num_clips: int = 3,
    seed: int = 0,
) -> Path:
    """Write a PNG that shows whether the latent actions steer the world model.

    For each clip: the real frames; the world model's prediction from `x_t` under the clip's own
    latents; that under those of another clip (of another instruction, if there is one); and where
    training draws frames that were seen, its drawing of those. Views lie below each
    other. If the predictions look alike, the latents mean nothing.

    Args:
        policy: The policy.
        world_model: The world model.
        clips: Clips to choose from, of two episodes at least.
        path: Where the picture goes.
        num_clips: Clips shown, evenly spaced.
        seed: Seed of the swap.
    """
    partners = swap_partners(clips.episodes, seed)
    _prefer_other_instructions(partners, clips)
    chosen = np.linspace(0, len(clips) - 1, min(num_clips, len(clips))).round().astype(int)
    latents = latents_of(policy, clips)
    looked_at = {
        name: torch.cat([batch[name] for batch in clips.batches])[torch.from_numpy(chosen)]
        for name in ("frames", "frame_states")
        if name in clips.batches[0]
    }
    own, other = latents[chosen], latents[partners[chosen]]
    rows = _strip_rows(world_model, looked_at, own, other)  # (clips, 3 or 4, N+1, V*H, W, C)
    titles, height = _ROWS[: rows.shape[1]], rows.shape[3] / rows.shape[4]

    size = 1.5 + 0.8 * rows.shape[2], (0.5 + 0.85 * len(titles) * height) * len(chosen)
    figure = new_figure(*size)
    for axis, clip, images in zip(
        np.atleast_1d(figure.subplots(len(chosen), 1)), chosen, rows, strict=True
    ):
        own_task, other_task = clips.tasks[clip], clips.tasks[partners[clip]]
        title = textwrap.shorten(f"“{own_task}”   (other: “{other_task}”)", 100)
        steps = ["$x_t$", *(f"+{k}" for k in range(1, rows.shape[2]))]
        _show_tiles(axis, images, titles, steps, title)
    return _save(figure, path)


def neighbour_gallery(clips: Clips, latents: Array, path: str | Path, num_queries: int = 5) -> Path:
    """Write a PNG of clips and the three of other episodes whose latents are most alike.

    As Fig. 7 of the paper: each clip is shown by the main view's first frame and its last one.

    Args:
        clips: Clips `M`.
        latents: Their latents, `(M, N, A)`.
        path: Where the picture goes.
        num_queries: Clips asked for, of different instructions as far as there are such.
    """
    nearest, cosines = neighbours(latents, clips.episodes)
    queries = _varied(clips.tasks, num_queries)
    video = clips.frames[:, :, :3]
    frames = video[:, [0, -1]].movedim(2, -1).numpy()  # (M, 2, H, W, C)
    columns = 1 + nearest.shape[1]
    figure = new_figure(2.6 * columns, 1.75 * len(queries))
    grid = figure.subplots(len(queries), columns, squeeze=False)
    for query, axes in zip(queries, grid, strict=True):
        shown = [(int(query), "query"), *zip(nearest[query], cosines[query], strict=True)]
        for axis, (clip, label) in zip(axes, shown, strict=True):
            label = label if isinstance(label, str) else f"cosine {label:.2f}"
            task = textwrap.shorten(clips.tasks[clip], 34, placeholder="…")
            _show_tiles(axis, frames[clip][None], [""], ["", ""], f"{label}\n“{task}”", 9)
    title = f"Clips ($x_t$ and +{video.shape[1] - 1}) and those with the most similar latents"
    figure.suptitle(title, fontsize=11)
    return _save(figure, path)


def save_tiles(
    images: np.ndarray, path: str | Path, rows: Sequence[str], columns: Sequence[str], title: str
) -> Path:
    """Write `(R, T, H, W, C)` images in [0, 1] as one PNG with names of rows and columns."""
    figure = new_figure(1.5 + 1.2 * images.shape[1], 0.6 + 1.25 * images.shape[0])
    _show_tiles(figure.subplots(), images, rows, columns, title)
    return _save(figure, path)


def _show_tiles(
    axis: Any,
    images: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    title_size: int = 11,
) -> None:
    picture, row_centres, column_centres = _tiled(images)
    axis.imshow(picture, interpolation="nearest")
    axis.set_title(title, fontsize=title_size)
    axis.set_xticks(column_centres, columns)
    axis.set_yticks(row_centres, rows)
    axis.tick_params(length=0, labelsize=10, labeltop=True, labelbottom=False)
    axis.spines[:].set_visible(False)


def new_figure(width: float, height: float) -> Any:
    """A figure of this size in inches, drawn without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    return path


@torch.no_grad()
def _strip_rows(
    world_model: LAWMWorldModel, batch: dict[str, Tensor], own: Tensor, other: Tensor
) -> np.ndarray:
    """Pictures `(clips, R, N+1, V*H, W, C)` in [0, 1] of the rows, the redrawn ones last if any."""
    device = next(world_model.parameters()).device
    frames, own, other = batch["frames"].to(device), own.to(device), other.to(device)
    states, start = states_of(batch, device)
    images = frames.float() / (255 if frames.dtype == torch.uint8 else 1)
    first = images[:, :1]
    with evaluating(world_model):
        imagined = [
            torch.cat([first, world_model.predict_frames(frames[:, 0], latents, **start)], 1)
            for latents in (own, other)
        ]
        redrawn = world_model.redraw_frames(frames, own, **states)
    redrawn = [] if redrawn is None else [redrawn]
    rows = torch.stack([images, *imagined, *redrawn], 1).clamp(0, 1)
    rows = torch.cat(rows.split(3, -3), -2)
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


def _varied(tasks: Sequence[str], count: int) -> np.ndarray:
    """Numbers of `count` clips, evenly spread, each of an instruction not yet taken if possible."""
    order = np.random.default_rng(0).permutation(len(tasks))
    seen: dict[str, int] = {}
    turns = np.empty(len(tasks), dtype=int)
    for i in map(int, order):
        turns[i] = seen[tasks[i]] = seen.get(tasks[i], -1) + 1
    return order[np.argsort(turns[order], kind="stable")][:count]


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
