# SPDX-License-Identifier: Apache-2.0
"""For world models without a recurrence: a transformer over latents, and which frames to look at.

Shapes: `B` batch, `N` chunk steps, `n` of them drawn, `C,H,W` image, `A` action.
"""

from typing import Any

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from .modeling_outputs import check_clip, unit_images


class CausalTransformer(nn.Module):
    """Reads latent actions in order: what it says of step `k` knows actions `1 .. k` only.

    Args:
        action_size: Numbers `A` in one action.
        hidden_size: Width of the tokens, an even multiple of `num_heads`.
        num_layers: Layers of attention and MLP.
        num_heads: Attention heads.
    """

    def __init__(self, action_size: int, hidden_size: int, num_layers: int, num_heads: int):
        super().__init__()
        self.hidden_size = hidden_size
        self.actions_in = nn.Linear(action_size, hidden_size)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                *(hidden_size, num_heads, 4 * hidden_size),
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, actions: Tensor, before: Tensor | None = None) -> Tensor:
        """Summarise the actions up to each step.

        Args:
            actions: `(B, N, A)`, any `N`.
            before: Tokens that all steps may look at, `(B, P, hidden_size)`.

        Returns:
            `(B, N, hidden_size)`.
        """
        num_steps, device = actions.shape[1], actions.device
        places = get_timestep_embedding(torch.arange(num_steps, device=device), self.hidden_size)
        x = self.actions_in(actions.to(self.norm.weight.dtype))
        x = x + places.to(x.dtype)  # (B, N, hidden_size)
        if before is not None:
            x = torch.cat([before.to(x.dtype), x], dim=1)
        length = x.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=device, dtype=x.dtype)
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=True)
        return self.norm(x[:, -num_steps:])


def draw_steps(
    num_steps: int, num_drawn: int | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Steps that an update looks at: the last, which all latents lead to, and others at random.

    Args:
        num_steps: `N`.
        num_drawn: How many of them, 2 or more; all if `None`.
        device: Where the result is made: nothing waits for it.

    Returns:
        The steps, `(num_drawn,)`, and how many each stands for, so that the weighted sum of a loss
        estimates that over all.
    """
    every = torch.arange(num_steps, device=device)
    if num_drawn is None or num_drawn >= num_steps:
        return every, torch.ones(num_steps, device=device)
    others = torch.randperm(num_steps - 1, device=device)[: num_drawn - 1]
    weights = torch.full((num_drawn,), (num_steps - 1) / (num_drawn - 1), device=device)
    weights[-1] = 1
    return torch.cat([others, every[-1:]]), weights


def look_at_clip(
    config: Any,
    frames: Tensor,
    actions: Tensor,
    frame_is_pad: Tensor | None,
    num_drawn: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What an update sees of a clip; arguments as of `LAWMWorldModel.forward`.

    Returns:
        `x_t` `(B, 1, C, H, W)` and the frames of the drawn steps `(B, n, C, H, W)`, in [0, 1],
        padding black; and `draw_steps`.

    Raises:
        ValueError: See `check_clip`.
    """
    check_clip(frames, actions, frame_is_pad, config.image_size, config.action_size)
    if frame_is_pad is not None:
        frames = frames.masked_fill(frame_is_pad[:, :, None, None, None], 0)
    steps, weights = draw_steps(actions.shape[1], num_drawn, frames.device)
    targets = unit_images(frames.index_select(1, steps + 1))
    return unit_images(frames[:, :1]), targets, steps, weights
