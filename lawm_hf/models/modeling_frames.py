# SPDX-License-Identifier: Apache-2.0
"""Frame encoder and decoder of DreamerV3: strided convolutions down to a small grid, and back.

Feature maps are channels-last throughout: the layer norm over channels then needs no copy, and CPU
convolutions are at their fastest.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .configuration_dreamer import DreamerV3Config
from .scan_linear import BlockLinear, ScanLinear
from .strided_conv import DownConv, UpConv

NORM_EPS = 1e-3  # DreamerV3
NUM_CHANNELS = 3
FRAMES_AT_ONCE = 16  # with gradient checkpointing
# What a residual decoder draws: a change of colour; a colour and its opacity.
_NUM_DRAWN = {"difference": NUM_CHANNELS, "composite": NUM_CHANNELS + 1}


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of `(B, C, H, W)`, at each position."""

    def __init__(self, num_channels: int):
        super().__init__(num_channels, eps=NORM_EPS)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `(B, C, H, W)`."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FrameLayers(nn.Sequential):
    """Layers over frames; with gradient checkpointing a few frames at a time, and once more.

    What is kept for the backward pass is then the input and the output, and the rest of a few
    frames, which are computed again: else the maps of all frames are most of what a step keeps.
    """

    gradient_checkpointing = False  # `PreTrainedModel.gradient_checkpointing_enable` sets it

    def forward(self, input: Tensor, skips: Sequence[Tensor] = ()) -> Tensor:
        """Map `(B, C, H, W)`; of `skips`, one joins the channels before each deconvolution."""
        if not (self.gradient_checkpointing and self.training):
            return self._run(input, *skips)
        again: Any = self._gradient_checkpointing_func
        parts = zip(*(maps.split(FRAMES_AT_ONCE) for maps in (input, *skips)), strict=True)
        return torch.cat([again(self._run, *part) for part in parts])

    def _run(self, x: Tensor, *skips: Tensor) -> Tensor:
        waiting = iter(skips)
        for layer in self:
            if skips and isinstance(layer, UpConv):
                x = torch.cat([x, next(waiting)], 1)
            x = layer(x)
        return x


class FrameEncoder(nn.Module):
    """Embeds frames: each layer halves the side and doubles the channels."""

    def __init__(self, config: DreamerV3Config):
        super().__init__()
        layers, channels = [], NUM_CHANNELS * config.num_views
        for stage in range(config.num_stages):
            out = config.depth << stage
            layers += [
                DownConv(channels, out, 4),
                ChannelNorm(out),
                nn.SiLU(),
            ]
            channels = out
        self.layers = FrameLayers(*layers)

    def forward(self, images: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """Embed images in [-0.5, 0.5], `(B, V*C, H, W)`, as `(B, E)`.

        Args:
            images: The images.
            maps: If given, the feature map of each stage is put at its front: the coarsest first.
        """
        if maps is None:
            x = self.layers(images)
        else:
            x = images
            for layer in self.layers:
                x = layer(x)
                if isinstance(layer, nn.SiLU):
                    maps.insert(0, x)
        return x.permute(0, 2, 3, 1).flatten(1)  # a view: channels are last


class FrameDecoder(nn.Module):
    """Draws a frame from a latent state: each layer doubles the side and halves the channels."""

    def __init__(self, config: DreamerV3Config):
        super().__init__()
        self.grid_size, self.num_blocks = config.grid_size, config.num_blocks
        fan_in = config.stoch_size + config.deter_size // config.num_blocks
        self.stoch_in = ScanLinear(config.stoch_size, config.embed_size, fan_in)
        self.deter_in = BlockLinear(config.deter_size, config.embed_size, config.num_blocks, fan_in)
        self.bias = nn.Parameter(torch.empty(config.embed_size))
        kernel = config.decoder_kernel_size
        layers, channels = [], config.grid_channels
        num_drawn = _NUM_DRAWN[config.residual] if config.residual_decoder else NUM_CHANNELS
        num_drawn *= config.num_views
        for stage in reversed(range(config.num_stages)):
            is_last = stage == 0
            if config.decoder_skips:
                channels += config.depth << stage
            out = num_drawn if is_last else config.depth << (stage - 1)
            layers.append(UpConv(channels, out, kernel, bias=is_last))
            if not is_last:
                layers += [ChannelNorm(out), nn.SiLU()]
            channels = out
        self.layers = FrameLayers(*layers)

    def forward(self, deter: Tensor, stoch: Tensor, skips: Sequence[Tensor] = ()) -> Tensor:
        """Draw `(B, V*3, H, W)`, or what `config.residual` wants, from `(B, D)` and `(B, S, K)`.

        With `config.decoder_skips` also from the encoder's maps of `x_t`, for each frame again.
        """
        # Each block of the deterministic state feeds channels of its own, at every position.
        blocks = self.deter_in(deter).unflatten(-1, (self.num_blocks, self.grid_size**2, -1))
        grid = self.stoch_in(stoch.flatten(1)) + blocks.transpose(1, 2).flatten(1) + self.bias
        grid = grid.unflatten(-1, (self.grid_size, self.grid_size, -1))
        return self.layers(grid.permute(0, 3, 1, 2), skips)


class StateCoder(nn.Module):
    """The robot's state, in and out: one linear layer each."""

    def __init__(self, config: DreamerV3Config):
        super().__init__()
        self.encoder = ScanLinear(config.state_size, config.embed_size)
        self.decoder = ScanLinear(config.deter_size + config.stoch_size, config.state_size)

    def embed(self, states: Tensor) -> Tensor:
        """What states `(B, T, P)` add to the embeddings of their frames, `(B, T, E)`."""
        return self.encoder(states.to(self.encoder.weight.dtype))

    def draw(self, deter: Tensor, stoch: Tensor, first: Tensor) -> Tensor:
        """States `(B, N, P)` from latent ones, as the difference to the first, `(B, 1, P)`."""
        return first + self.decoder(torch.cat([deter, stoch.flatten(2)], -1)).float()
