# SPDX-License-Identifier: Apache-2.0
"""A 1-D U-Net over the steps of an action chunk, modulated by a condition vector.

Network of Diffusion Policy (https://arxiv.org/abs/2303.04137, §III-A) in the sizes of the LAWM
authors: two residual blocks per level, scale and bias (FiLM) from the condition in each block.
Between levels the chunk is halved; the finest level has no skip connection, as in the original.

Besides the usual letters: `M` numbers of the condition.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer


class StepEmbedding(nn.Module):
    """Embeds the index of the diffusion step: sinusoids, then a two-layer network."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size
        self.up, self.down = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def forward(self, timesteps: Tensor) -> Tensor:
        """Embed integer steps `(B,)` as `(B, size)`."""
        half = self.size // 2
        frequencies = torch.arange(half, device=timesteps.device) * (-math.log(10_000) / (half - 1))
        phases = timesteps[:, None].float() * frequencies.exp()  # (B, size / 2)
        waves = torch.cat([phases.sin(), phases.cos()], dim=-1)
        return self.down(F.mish(self.up(waves.to(self.up.weight.dtype))))


class ConvBlock(nn.Sequential):
    """Convolution over the steps, GroupNorm with 8 groups, Mish."""

    def __init__(self, in_size: int, out_size: int, kernel_size: int):
        super().__init__(
            nn.Conv1d(in_size, out_size, kernel_size, padding=kernel_size // 2),
            nn.GroupNorm(8, out_size),
            nn.Mish(),
        )


class ResidualBlock(GradientCheckpointingLayer):
    """Two convolution blocks; the condition scales and shifts what lies between them."""

    def __init__(self, in_size: int, out_size: int, condition_size: int, kernel_size: int):
        super().__init__()
        self.enter = ConvBlock(in_size, out_size, kernel_size)
        self.film = nn.Linear(condition_size, 2 * out_size)
        self.leave = ConvBlock(out_size, out_size, kernel_size)
        self.shortcut = nn.Conv1d(in_size, out_size, 1) if in_size != out_size else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map `(B, in_size, N)` to `(B, out_size, N)` given the condition `(B, M)`."""
        scale, bias = self.film(F.mish(condition))[..., None].chunk(
            2, dim=1
        )  # (B, out_size, 1) each
        return self.leave(scale * self.enter(x) + bias) + self.shortcut(x)


class ConditionalUnet(nn.Module):
    """Predicts what the noise scheduler asks for, from a noisy chunk, its step and a condition.

    Args:
        action_size: Numbers `A` in one action.
        condition_size: Width `M` of the observation's condition vector.
        down_dims: Channels of the levels, finest first; multiples of 8.
        kernel_size: Odd width of the convolutions, in steps.
        step_embed_size: Width of the diffusion step's embedding.
    """

    def __init__(
        self,
        action_size: int,
        condition_size: int,
        down_dims: Sequence[int],
        kernel_size: int = 3,
        step_embed_size: int = 256,
    ):
        super().__init__()
        condition_size += step_embed_size
        self.multiple = 2 ** (len(down_dims) - 1)

        def blocks(in_size: int, out_size: int) -> nn.ModuleList:
            return nn.ModuleList(
                ResidualBlock(size, out_size, condition_size, kernel_size)
                for size in (in_size, out_size)
            )

        self.step_embedding = StepEmbedding(step_embed_size)
        coarser = list(zip([action_size, *down_dims[:-1]], down_dims, strict=True))
        self.down_blocks = nn.ModuleList(blocks(*sizes) for sizes in coarser)
        self.downsamplers = nn.ModuleList(
            nn.Conv1d(size, size, 3, stride=2, padding=1) for size in down_dims[:-1]
        )
        self.middle_blocks = blocks(down_dims[-1], down_dims[-1])
        finer = [(size, next_size) for next_size, size in reversed(coarser[1:])]
        self.up_blocks = nn.ModuleList(blocks(2 * size, next_size) for size, next_size in finer)
        self.upsamplers = nn.ModuleList(
            nn.ConvTranspose1d(next_size, next_size, 4, stride=2, padding=1)
            for _, next_size in finer
        )
        self.last_block = ConvBlock(down_dims[0], down_dims[0], kernel_size)
        self.head = nn.Conv1d(down_dims[0], action_size, 1)

    def forward(self, sample: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """Run the network.

        Args:
            sample: Noisy chunks, `(B, N, A)`, any `N`: inside, the last action is repeated up to
                the next multiple of the downsampling, and the surplus is cut off at the end.
            timesteps: Diffusion step of each chunk, `(B,)`, integers.
            condition: `(B, M)`.

        Returns:
            `(B, N, A)`.
        """
        length = sample.shape[1]
        x = F.pad(sample.transpose(1, 2), (0, -length % self.multiple), mode="replicate")
        condition = torch.cat([self.step_embedding(timesteps), condition], dim=-1)
        skips = []
        for level, level_blocks in enumerate(self.down_blocks):
            for block in level_blocks:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x, condition)  # (B, down_dims[level], N / 2**level)
            skips.append(x)
            if level < len(self.downsamplers):
                x = self.downsamplers[level](x)
        for block in self.middle_blocks:
            x = block(x, condition)
        for level_blocks, upsampler in zip(self.up_blocks, self.upsamplers, strict=True):
            x = torch.cat([x, skips.pop()], dim=1)
            for block in level_blocks:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x, condition)
            x = upsampler(x)
        return self.head(self.last_block(x))[..., :length].transpose(1, 2)
