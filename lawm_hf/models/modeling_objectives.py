# SPDX-License-Identifier: Apache-2.0
"""What the world model's optional objectives need: the paper's future work, a few lines each.

Pictures laid over the first frame, masked frames, and errors between features instead of pixels;
see `residual`, `mask_ratio` and `frame_loss` of `DreamerV3Config`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

_START = -2.0  # logit of the opacity that a composite starts with: nearly a copy of x_t
PATCHES_PER_SIDE = 8  # a patch is 4 pixels of a 32-pixel frame: about half a cube of the tabletop


def lay_over(first_frame: Tensor, drawn: Tensor) -> Tensor:
    """A picture laid over the first frame, as opaque as it says at each pixel.

    Args:
        first_frame: `x_t`, `(B, 1, C, H, W)`.
        drawn: The picture and the logit of its opacity, less `_START`, `(B, N, C + 1, H, W)`.

    Returns:
        `(B, N, C, H, W)`.
    """
    picture, opacity = drawn.split([drawn.shape[2] - 1, 1], dim=2)
    return torch.lerp(first_frame.to(drawn.dtype), picture, (opacity + _START).sigmoid())


def hide_patches(images: Tensor, ratio: float) -> Tensor:
    """Fill random patches with mid-grey, the same in all frames of a clip.

    The same, because what one frame hid another would show, and nothing would be missing.

    Args:
        images: In [-0.5, 0.5], `(B, T, C, H, W)`, with sides that are multiples of 8.
        ratio: Probability that a patch is hidden.
    """
    shape = (len(images), 1, 1, PATCHES_PER_SIDE, PATCHES_PER_SIDE)
    is_hidden = torch.rand(shape, device=images.device) < ratio
    for dim in (-2, -1):
        is_hidden = is_hidden.repeat_interleave(images.shape[dim] // PATCHES_PER_SIDE, dim)
    return images.masked_fill(is_hidden, 0)


class FixedFeatures(nn.Module):
    """Three strided random convolutions that never train: edges and colours at three scales.

    Random, because a pretrained network would need a download and pictures larger than these.
    They are always the same ones, and buffers, so a checkpoint holds them and no optimiser does.
    Each has variance 2 / fan in and twice as many outputs as the layer before: with ReLU and
    stride 2 a squared error then has about the same sum at every scale as between the pixels.
    """

    def __init__(self, num_channels: int):
        super().__init__()
        sizes = (num_channels, 16, 32, 64)
        for index in range(3):
            kernel = torch.empty(sizes[index + 1], sizes[index], 4, 4)
            self.register_buffer(f"kernel_{index}", kernel)

    def draw_kernels(self) -> None:
        """Initialise, with a seed of its own."""
        generator = torch.Generator().manual_seed(0)
        for kernel in self.buffers():
            std = (2 / kernel[0].numel()) ** 0.5
            init.copy_(kernel, std * torch.randn(kernel.shape, generator=generator, device="cpu"))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps `(B, T, 16, H/2, W/2)` and two coarser ones of images `(B, T, C, H, W)`."""
        maps, x = [], images.flatten(0, 1)
        for kernel in self.buffers():
            x = F.relu(F.conv2d(x, kernel.to(x.dtype), stride=2, padding=1))
            maps.append(x.unflatten(0, images.shape[:2]))
        return maps
