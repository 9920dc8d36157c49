# SPDX-License-Identifier: Apache-2.0
"""BAKU (https://arxiv.org/abs/2406.07539): a small transformer over one token per input.

    [instruction, view 1 .. view V, state, action token] -> causal transformer -> MLP -> chunk

The whole chunk is read at the last, learned token. Which inputs exist differs by dataset (human
videos have one view and no state), so absent ones are masked in the attention, never imitated by
zeros or copies.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_baku import BakuConfig

# Not used here, like the last one: remote code of a folder is loaded with direct imports only.
from .inference_lawm import compile_policy  # noqa: F401
from .loading_lawm import LAWMModel  # noqa: F401
from .modeling_lawm import LAWMPolicy
from .modeling_outputs import PolicyOutput, check_targets, masked_mean
from .modeling_vision import FilmVisionEncoder, init_vision_weights
from .sharing_lawm import SharedOnHub  # noqa: F401


class TransformerBlock(GradientCheckpointingLayer):
    """Pre-norm attention and MLP, as in GPT-2."""

    def __init__(self, config: BakuConfig):
        super().__init__()
        size = config.hidden_size
        self.num_heads, self.dropout = config.num_heads, config.dropout
        self.attention_norm = nn.LayerNorm(size)
        self.query_key_value = nn.Linear(size, 3 * size)
        self.attention_output = nn.Linear(size, size)
        self.mlp_norm = nn.LayerNorm(size)
        self.mlp = nn.Sequential(
            nn.Linear(size, 4 * size), nn.GELU(approximate="tanh"), nn.Linear(4 * size, size)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Transform the last `Q` tokens.

        Args:
            x: `(B, T, hidden_size)`.
            mask: `(B, 1, Q, T)`, True where one of the last tokens (row) may look at another
                (column).

        Returns:
            `(B, Q, hidden_size)`.
        """
        num_queries = mask.shape[2]
        qkv = self.query_key_value(self.attention_norm(x))
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, T, head size)
            for part in qkv.chunk(3, dim=-1)
        )
        q, x = q[:, :, -num_queries:], x[:, -num_queries:]
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        y = self.attention_output(y.transpose(1, 2).flatten(2))
        x = x + F.dropout(y, self.dropout, self.training)
        return x + F.dropout(self.mlp(self.mlp_norm(x)), self.dropout, self.training)


class BakuPolicy(LAWMPolicy):
    """BAKU with instruction-queried vision.

    With the default configuration it has 7,751,558 parameters, the LAWM authors' 7,712,006: vision
    has 119,936 more (queries and a hidden layer in place of a spatial softmax), proprioception
    66,560 more (two layers), the transformer 146,944 fewer (no projections at its ends, as many
    places as tokens). GELU everywhere: the authors' ReLU head died in two of three of our runs and
    left a constant.
    """

    config_class = BakuConfig
    config: BakuConfig
    action_head_prefixes = ("action_head",)
    vision_parameter_prefixes = ("vision",)
    state_parameter_prefixes = ("proprioception",)
    uses_all_parameters = True
    supports_gradient_checkpointing = True

    def __init__(self, config: BakuConfig):
        super().__init__(config)
        size = config.hidden_size
        self.vision = FilmVisionEncoder(config)
        self.language = nn.Linear(config.task_embed_size, size)
        if config.state_size:
            self.proprioception = nn.Sequential(
                nn.Linear(config.state_size, size), nn.GELU(), nn.Linear(size, size)
            )
        # One place each: instruction, views, state. The action token is a place of its own.
        self.places = nn.Parameter(torch.empty(config.num_views + 2, size))
        self.action_token = nn.Parameter(torch.empty(size))
        self.blocks = nn.ModuleList([TransformerBlock(config) for _ in range(config.num_layers)])
        self.norm = nn.LayerNorm(size)
        self.head = nn.Sequential(
            nn.Linear(size, size), nn.GELU(), nn.Linear(size, size), nn.GELU()
        )
        self.action_head = nn.Linear(size, config.chunk_size * config.action_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            # As the authors do.
            init.orthogonal_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif module is self:
            init.normal_(self.places, std=0.1)
            init.normal_(self.action_token, std=0.5)
        init_vision_weights(module)

    def _embed(
        self,
        pixel_values: Tensor,
        task_embeds: Tensor,
        state: Tensor | None,
        state_mask: Tensor | None,
        view_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Tokens `(B, T, hidden_size)`, action token last, and which are present, `(B, T)`."""
        batch_size, num_views = len(pixel_values), self.count_views(pixel_values)
        present = torch.ones(batch_size, 1, dtype=torch.bool, device=pixel_values.device)
        if view_mask is None:
            view_mask = present.expand(-1, num_views)
        # Emptied before encoding: masked attention alone would let a NaN through.
        views = pixel_values.masked_fill(~view_mask[:, :, None, None, None], 0).to(self.dtype)
        task = F.normalize(task_embeds, dim=-1).to(self.dtype)
        tokens = [self.language(task)[:, None], self.vision(views, task)]
        visible = [present, view_mask]
        places = [self.places[: 1 + num_views]]
        if state is not None and self.config.state_size:
            state_mask = present if state_mask is None else state_mask[:, None]
            state = state.masked_fill(~state_mask, 0).to(self.dtype)
            tokens.append(self.proprioception(state)[:, None])
            visible.append(state_mask)
            places.append(self.places[-1:])
        inputs = torch.cat(tokens, dim=1) + torch.cat(places)
        action_token = self.action_token.expand(batch_size, 1, -1)
        return torch.cat([inputs, action_token], dim=1), torch.cat([*visible, present], dim=1)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        pixel_values: Tensor,
        task_embeds: Tensor,
        state: Tensor | None = None,
        state_mask: Tensor | None = None,
        view_mask: Tensor | None = None,
        actions: Tensor | None = None,
        action_is_pad: Tensor | None = None,
    ) -> PolicyOutput:
        """Predict a chunk, and its negative log-likelihood when `actions` are given.

        Args:
            pixel_values: Views normalised by the processor, `(B, V, C, H, W)`, `V <= num_views`.
            task_embeds: Instruction embeddings, `(B, L)`.
            state: Normalised proprioception, `(B, P)`; not looked at if `state_size` is 0.
            state_mask: `(B,)`, False where a sample has no state.
            view_mask: `(B, V)`, False where a sample lacks a view.
            actions: Targets in [-1, 1], `(B, N, A)`.
            action_is_pad: `(B, N)`, True past the end of the episode.

        Raises:
            ValueError: If there are more views than `num_views`.
        """
        x, visible = self._embed(pixel_values, task_embeds, state, state_mask, view_mask)
        length = x.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        # The instruction comes first and is always there: no row of the mask is empty.
        mask = causal & visible[:, None, None, :]  # (B, 1, T, T)
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.blocks[:-1]:
            x = block(x, mask)
        x = self.blocks[-1](x, mask[:, :, -1:])  # nobody reads the other tokens
        chunk = self.bound(self.action_head(self.head(self.norm(x[:, -1]))))  # (B, N, A)
        if actions is None:
            return PolicyOutput(actions=chunk)
        check_targets(actions, action_is_pad, chunk.shape)
        action_loss = self._negative_log_likelihood(chunk, actions)
        return PolicyOutput(
            loss=masked_mean(action_loss, action_is_pad, self.training),
            actions=chunk,
            action_loss=action_loss,
        )

    def _negative_log_likelihood(self, chunk: Tensor, actions: Tensor) -> Tensor:
        """Of a normal distribution with fixed deviation, mean over action dimensions: `(B, N)`."""
        std = self.config.action_std
        squared_error = (chunk.float() - actions.float()).square().mean(-1)
        return squared_error / (2 * std**2) + math.log(std * math.sqrt(2 * math.pi))


AutoModel.register(BakuConfig, BakuPolicy, exist_ok=True)
BakuPolicy.register_for_auto_class("AutoModel")
