# SPDX-License-Identifier: Apache-2.0
"""Image transforms of the processor, for whole batches: resizing, random shift, colour jitter.

Nothing here makes a GPU wait: what is drawn on the CPU goes to it by `send`.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; a GPU copies it out of pinned memory while the CPU goes on."""
    if tensor.device.type != "cpu":
        return tensor.to(device)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@lru_cache(maxsize=32)
def constant(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers as a tensor that is made once on each device; not to be changed in place."""
    with torch.inference_mode(False):  # whoever asks first, gradients may pass later
        return torch.tensor(numbers, device=device)


def check_images(images: Tensor, name: str, layout: str) -> None:
    """Refuse anything but RGB images, channels first: uint8, or float in [0, 1].

    Args:
        images: What was given.
        name: Name of the argument, for the message.
        layout: Expected axes, one letter each, such as `"BVCHW"`.

    Raises:
        ValueError: If the number of axes, the channels, the dtype or the values are wrong.
    """
    axes = f"({', '.join(layout)})"
    if images.ndim != len(layout):
        raise ValueError(
            f"`{name}` must have the axes {axes}, got shape {tuple(images.shape)}. "
            "Add the missing axes with `unsqueeze`, or stack the batch."
        )
    if images.shape[-3] != 3:
        remedy = "Drop alpha, or repeat grey three times."
        if images.shape[-1] == 3:
            remedy = "The channels seem to come last: use `images.movedim(-1, -3)`."
        raise ValueError(
            f"`{name}` must be RGB with channels first, {axes} with C = 3, got shape "
            f"{tuple(images.shape)}. {remedy}"
        )
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise ValueError(f"`{name}` must be uint8, or float in [0, 1], got {images.dtype}.")
    low, high = (bound.item() for bound in torch.aminmax(images))  # NaN if any value is
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(
            f"Float `{name}` must be finite and in [0, 1], got values from {low} to {high}. Divide "
            "by 255 or pass uint8; drop frames with NaN."
        )


def resize(images: Tensor, size: int, name: str) -> Tensor:
    """Shrink to `size` x `size`, keeping the dtype; never enlarges.

    By whole factors each pixel is the mean of those it covers; otherwise antialiased bilinear. A
    view that is not square is squashed, as the paper's authors do.

    Args:
        images: `(..., C, H, W)`, uint8 or float in [0, 1].
        size: Side of the result in pixels.
        name: Name of the argument, for the message.

    Raises:
        ValueError: If the images are smaller than `size`.
    """
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images
    if min(height, width) < size:
        raise ValueError(
            f"`{name}` must be at least {size} pixels on each side, got {height} x {width}. "
            "Record or render larger images, or build processor and model for smaller ones."
        )
    if height % size == 0 and width % size == 0:
        return _block_mean(images, height // size, width // size)
    flat = images.flatten(0, -4).float()
    flat = F.interpolate(flat, (size, size), mode="bilinear", antialias=True)
    flat = flat.round().clamp(0, 255) if images.dtype == torch.uint8 else flat
    return flat.to(images.dtype).unflatten(0, images.shape[:-3])


def _block_mean(images: Tensor, rows: int, columns: int) -> Tensor:
    """Mean over blocks of `rows` x `columns` pixels, in a third of `avg_pool2d`'s time on CPUs."""
    if images.dtype == torch.uint8 and rows == columns == 2:
        # A few samples at a time stay in the cache.
        return torch.cat([_halve(part) for part in images.split(4)])
    total = images[..., ::rows, :].to(torch.float32, copy=True)
    for row in range(1, rows):
        total += images[..., row::rows, :]
    pooled = total[..., ::columns].clone()
    for column in range(1, columns):
        pooled += total[..., column::columns]
    pooled /= rows * columns
    return (
        (pooled + 0.5).to(torch.uint8) if images.dtype == torch.uint8 else pooled.to(images.dtype)
    )


def _halve(images: Tensor) -> Tensor:
    """Mean of 2 x 2 pixels of uint8 images, rounded: sums of two rows, then of pairs in 32 bits."""
    rows = images[..., ::2, :].to(torch.int16, memory_format=torch.contiguous_format)
    pairs = rows.add_(images[..., 1::2, :]).view(torch.int32)  # two sums of at most 510 each
    return (pairs >> 16).add_(pairs).add_(2).bitwise_right_shift_(2).to(torch.uint8)


def random_shift(images: Tensor, pixels: int, generator: torch.Generator | None = None) -> Tensor:
    """Move each image by up to `pixels` along both axes, repeating the border (DrQ-v2).

    Args:
        images: `(M, C, H, W)`; each of the `M` gets its own shift.
        pixels: Largest shift in either direction.
        generator: Source of the draws; a CPU generator, so that all devices see the same shifts.
    """
    if pixels == 0:
        return images
    num_images, _, height, width = images.shape
    device = images.device
    shifts = torch.randint(-pixels, pixels + 1, (2, num_images, 1), generator=generator)
    shifts = send(shifts, device)
    rows = (torch.arange(height, device=device) + shifts[0]).clamp_(0, height - 1)  # (M, H)
    columns = (torch.arange(width, device=device) + shifts[1]).clamp_(0, width - 1)  # (M, W)
    source = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)[:, None]  # (M, 1, H*W)
    return images.flatten(2).gather(2, source.expand(-1, images.shape[1], -1)).view_as(images)


def colour_jitter(
    images: Tensor,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw new colours for each image; all four changes are affine, so they cost one small matmul.

    Args:
        images: `(M, 3, H, W)`, float in [0, 1].
        brightness: Colours are multiplied by a draw from `[1 - brightness, 1 + brightness]`.
        contrast: Likewise the distance from the image's mean grey; grey is the mean of R, G, B.
        saturation: Likewise the distance from each pixel's grey.
        hue: Largest turn about the axis of greys, as a share of the full circle. Keep it small
            where instructions name colours: red and yellow lie 1/6 apart.
        generator: As for `random_shift`.

    Returns:
        Images of the same shape, clamped to [0, 1].
    """
    num_images = images.shape[0]
    draws = torch.rand(4, num_images, generator=generator) * 2 - 1
    strengths = torch.tensor([brightness, contrast, saturation, hue])
    light, contrast_gain, chroma, turn = draws * strengths[:, None]
    light, contrast_gain, chroma = 1 + light, 1 + contrast_gain, 1 + chroma
    chroma, angle = chroma[:, None, None], 2 * torch.pi * turn[:, None, None]
    to_grey = torch.full((3, 3), 1 / 3)
    # Rodrigues' rotation: the cross product with the axis of greys turns by a right angle.
    right_angle = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    matrix = to_grey + chroma * (angle.cos() * (torch.eye(3) - to_grey) + angle.sin() * right_angle)
    matrix = send(matrix * (light * contrast_gain)[:, None, None], images.device)  # (M, 3, 3)
    matrix = matrix.to(images.dtype)
    offset = send(light * (1 - contrast_gain), images.device).to(images.dtype)
    offset = offset * images.mean((1, 2, 3))  # (M,)
    pixels = images.flatten(2)
    pixels = torch.baddbmm(offset[:, None, None].expand_as(pixels), matrix, pixels)
    return pixels.clamp_(0, 1).view_as(images)
