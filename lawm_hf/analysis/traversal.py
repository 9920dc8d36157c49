# SPDX-License-Identifier: Apache-2.0
"""What one direction of the latents does: the same first frame, imagined along it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..models.modeling_lawm import LAWMWorldModel
from .clips import Clips
from .figures import save_tiles
from .latents import Array
from .prediction import evaluating

_DIRECTIONS = 3
_SIDE, _CAPTION = 160, 18  # pixels of a panel of the GIF, and of the line above it


@dataclass
class Directions:
    """Principal directions of chunk latents.

    Single dimensions are entangled, and the ten steps of a chunk move together: what varies across
    clips is these directions.

    Attributes:
        mean: The average chunk, `(N*A,)`.
        vectors: Unit directions, the widest first, `(P, N*A)`.
        deviations: Standard deviation along each, `(P,)`.
        shares: Share of the variance along each, `(P,)`.
    """

    mean: Array
    vectors: Array
    deviations: Array
    shares: Array


def principal_directions(latents: Array, count: int = _DIRECTIONS) -> Directions:
    """The `count` widest directions of chunks `(M, N, A)`."""
    flat = latents.reshape(len(latents), -1)
    mean = flat.mean(0)
    _, singular, vectors = np.linalg.svd(flat - mean, full_matrices=False)
    variances = singular**2 / len(flat)
    return Directions(
        mean=mean,
        vectors=vectors[:count],
        deviations=np.sqrt(variances[:count]),
        shares=variances[:count] / max(variances.sum(), 1e-12),
    )


def traverse(
    world_model: LAWMWorldModel,
    first_frame: Tensor,
    directions: Directions,
    values: Array,
    chunk_size: int,
    first_state: Tensor | None = None,
) -> np.ndarray:
    """The main view's last imagined frame along each direction, `(P, T, H, W, C)` in [0, 1].

    Args:
        world_model: The world model.
        first_frame: `x_t`, `(C, H, W)`, float in [0, 1].
        directions: `P` directions.
        values: `T` places on each, in standard deviations from the average chunk.
        chunk_size: Steps of a chunk.
        first_state: The robot's state beside `x_t`, `(P,)`, for a world model that sees it.
    """
    steps = directions.deviations[:, None] * values  # (P, T)
    flat = directions.mean + steps[..., None] * directions.vectors[:, None]  # (P, T, N*A)
    # Beyond ±1 no policy can go, and no world model has been.
    latents = torch.from_numpy(flat.clip(-1, 1)).float().flatten(0, 1)
    latents = latents.unflatten(1, (chunk_size, -1))  # (P*T, N, A)
    device = next(world_model.parameters()).device
    frames = first_frame.to(device).expand(len(latents), *first_frame.shape)
    start = {} if first_state is None else {"first_state": first_state.to(device)}
    start = {name: state.expand(len(latents), -1) for name, state in start.items()}
    with evaluating(world_model), torch.no_grad():
        drawn = world_model.predict_frames(frames, latents.to(device), **start)[:, -1, :3]
    pictures = drawn.clamp(0, 1).movedim(1, -1).cpu().numpy()
    return pictures.reshape(*steps.shape, *pictures.shape[1:])


def traversal_figures(
    world_model: LAWMWorldModel, clips: Clips, latents: Array, folder: str | Path, clip: int = 0
) -> tuple[Path, Path]:
    """Write `traversal.png`, a row for each direction, and `traversal.gif`, which sweeps them.

    Args:
        world_model: The world model.
        clips: Clips `M`.
        latents: Their latents, `(M, N, A)`.
        folder: Where the pictures go.
        clip: The clip whose first frame is imagined from.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    directions, first = principal_directions(latents), clips.frames[clip, 0]
    start = {name: states[clip] for name, states in clips.first_state.items()}
    values = np.arange(-2.0, 3.0)
    pictures = traverse(world_model, first, directions, values, latents.shape[1], **start)
    seen = first[:3].movedim(0, -1).numpy()
    seen = np.broadcast_to(seen, (len(pictures), 1, *pictures.shape[2:]))
    strip = save_tiles(
        np.concatenate([seen, pictures], 1),
        folder / "traversal.png",
        rows=[f"direction {p + 1}\n{share:.0%}" for p, share in enumerate(directions.shares)],
        columns=["$x_t$", *(f"{value:+.0f} sd" if value else "average" for value in values)],
        title=f"Last imagined frame, +{latents.shape[1]} steps; per cent: share of the variance",
    )
    there = np.linspace(-2, 2, 17)
    sweep = np.concatenate([there, there[-2:0:-1]])
    pictures = traverse(world_model, first, directions, sweep, latents.shape[1], **start)
    images = [
        _panels(column, value) for column, value in zip(pictures.swapaxes(0, 1), sweep, strict=True)
    ]
    path = folder / "traversal.gif"
    images[0].save(path, save_all=True, append_images=images[1:], duration=100, loop=0)
    return strip, path


def _panels(pictures: np.ndarray, value: float) -> Image.Image:
    """One frame of the GIF: the directions `(P, H, W, C)` side by side, with a caption each."""
    step = _SIDE + 4
    canvas = Image.new("RGB", (len(pictures) * step - 4, _SIDE + _CAPTION), "white")
    draw = ImageDraw.Draw(canvas)
    for number, picture in enumerate(pictures):
        image = Image.fromarray((picture * 255).round().astype(np.uint8))
        canvas.paste(
            image.resize((_SIDE, _SIDE), Image.Resampling.NEAREST), (number * step, _CAPTION)
        )
        draw.text((number * step + 3, 3), f"direction {number + 1}: {value:+.2f} sd", fill="black")
    return canvas
