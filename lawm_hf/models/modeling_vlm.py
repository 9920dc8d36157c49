# SPDX-License-Identifier: Apache-2.0
"""A vision-language policy: a pretrained model reads words and views, an action expert answers.

    words, view 1 .. view V -> language model -> its last hidden states, state
                                                        | cross-attention
                         action queries 1 .. N -> action expert -> chunk

SmolVLA (https://arxiv.org/abs/2506.01844) in its shape: the first layers of a small vision-language
model, and beside them an expert of the actions alone, trained on the model's features.

Why the expert answers in one pass, all N queries in parallel as in OpenVLA-OFT
(https://arxiv.org/abs/2502.19645), and does not match a flow as SmolVLA's: latent pretraining needs
a chunk that is a repeatable, differentiable function of the observation. A flow gives one by Euler
steps from a fixed noise, but then each update pays for as many passes and back through them, and
pretraining shapes its field along that one path only, while finetuning asks for it everywhere. Here
pretraining and finetuning ask the same function, and each latent has a query, so a gradient, of its
own. What is given up: where demonstrations go two ways, a flow may draw either, and this head
answers in between.

The words come before the views: in a causal language model what stands at a picture's place has
then read the instruction, and the expert looks at the named object. Beside each hidden state the
expert is told where in its picture it lies. Without that a small model at random had not found a
square on a plain ground after 200 updates, with it it had (`tests/test_vlm.py`).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel
from transformers import initialization as init

from .configuration_vlm import VlmPolicyConfig

# Not used here, like the last one: remote code of a folder is loaded with direct imports only.
from .inference_lawm import compile_policy  # noqa: F401
from .loading_lawm import LAWMModel  # noqa: F401
from .modeling_lawm import LAWMPolicy
from .modeling_outputs import PolicyOutput, check_targets, masked_mean
from .sharing_lawm import SharedOnHub  # noqa: F401

_NUM_WAVES = 4  # half a wave over the picture, one, two, four


class VlmPolicy(LAWMPolicy):
    """An action expert over a vision-language model of `transformers`.

    The instruction comes as the model's own token ids, `task_tokens`; its embedding is not looked
    at. Views are enlarged to the size that the model was trained on.
    """

    config_class = VlmPolicyConfig
    config: VlmPolicyConfig
    action_head_prefixes = ("action_head",)
    vision_parameter_prefixes = ("backbone.vision_model", "backbone.vision_tower")
    state_parameter_prefixes = ("proprioception",)
    supports_gradient_checkpointing = True  # of the vision-language model

    def __init__(self, config: VlmPolicyConfig):
        super().__init__(config)
        size, backbone = config.hidden_size, config.to_backbone()
        width = backbone.get_text_config().hidden_size
        side = backbone.vision_config.image_size
        self.side = side if isinstance(side, int) else side[0]
        self.backbone: Any = AutoModel.from_config(backbone)
        # Views are told apart by more than their order, as some may be absent.
        self.view_places = nn.Parameter(torch.empty(config.num_views, width))
        self.memory_norm = nn.LayerNorm(width)
        self.memory = nn.Linear(width, size)
        # As sines and cosines, for any number of tokens to a picture.
        self.token_places = nn.Linear(4 * _NUM_WAVES, size, bias=False)
        if config.state_size:
            self.proprioception = nn.Sequential(
                nn.Linear(config.state_size, size), nn.GELU(), nn.Linear(size, size)
            )
        self.queries = nn.Parameter(torch.empty(config.chunk_size, size))
        layer = {"dropout": 0.0, "activation": F.gelu, "batch_first": True, "norm_first": True}
        self.expert = nn.ModuleList(
            nn.TransformerDecoderLayer(size, config.num_heads, 4 * size, **layer)
            for _ in range(config.num_expert_layers)
        )
        self.norm = nn.LayerNorm(size)
        self.action_head = nn.Linear(size, config.action_size)
        self.post_init()
        if config.backbone and not self.queries.is_meta:  # not where a saved policy is loaded
            self.backbone = load_backbone(config.backbone, backbone)
        if config.train_backbone == "lora":
            add_adapters(self.backbone, config.lora_rank)
        self.freeze_parts()

    def freeze_parts(self) -> None:
        """Stop training what `train_backbone` leaves alone."""
        learns = {"all": "", "lora": "lora_", "none": None}[self.config.train_backbone]
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(learns is not None and learns in name)

    def _init_weights(self, module: nn.Module) -> None:
        """What torch does by default; transformers would draw linear layers from N(0, 0.02)."""
        if isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif module is self:
            init.zeros_(self.view_places)  # the model first sees what it was trained on
            init.normal_(self.queries, std=0.5)
        else:
            super()._init_weights(module)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        pixel_values: Tensor,
        task_embeds: Tensor | None = None,
        task_tokens: Tensor | None = None,
        state: Tensor | None = None,
        state_mask: Tensor | None = None,
        view_mask: Tensor | None = None,
        actions: Tensor | None = None,
        action_is_pad: Tensor | None = None,
    ) -> PolicyOutput:
        """Predict a chunk, and its mean absolute error when `actions` are given.

        Args:
            pixel_values: Views normalised by the processor, `(B, V, C, H, W)`, `V <= num_views`.
            task_embeds: Not looked at.
            task_tokens: Token ids of the instruction, `(B, T)`, -1 past its end.
            state: Normalised proprioception, `(B, P)`; not looked at if `state_size` is 0.
            state_mask: `(B,)`, False where a sample has no state.
            view_mask: `(B, V)`, False where a sample lacks a view.
            actions: Targets in [-1, 1], `(B, N, A)`.
            action_is_pad: `(B, N)`, True past the end of the episode.

        Raises:
            ValueError: If there are no tokens, or more views than `num_views`.
        """
        del task_embeds
        if task_tokens is None:
            raise ValueError(
                "A vision-language policy reads token ids, got no `task_tokens`. Build the "
                "processor with its options: `LAWMProcessor(**policy.config.processor_options())`."
            )
        hidden, present = self.read(pixel_values, task_tokens, view_mask)
        memory = self.memory(self.memory_norm(hidden))  # (B, L, hidden_size)
        num_words, num_views = task_tokens.shape[1], pixel_values.shape[1]
        waves = grid_waves((hidden.shape[1] - num_words) // num_views).to(memory)
        places = self.token_places(waves).repeat(num_views, 1)  # (V * I, hidden_size)
        memory = memory + F.pad(places, (0, 0, num_words, 0))  # words have no place
        if state is not None and self.config.state_size:
            has_state = present[:, :1] if state_mask is None else state_mask[:, None]
            state = state.masked_fill(~has_state, 0).to(self.dtype)
            memory = torch.cat([memory, self.proprioception(state)[:, None]], dim=1)
            present = torch.cat([present, has_state], dim=1)
        x = self.queries.expand(len(memory), -1, -1)  # (B, N, hidden_size)
        for layer in self.expert:
            x = layer(x, memory, memory_key_padding_mask=~present)
        chunk = self.bound(self.action_head(self.norm(x)))  # (B, N, A)
        if actions is None:
            return PolicyOutput(actions=chunk)
        check_targets(actions, action_is_pad, chunk.shape)
        action_loss = (chunk.float() - actions.float()).abs().mean(-1)  # (B, N)
        return PolicyOutput(
            loss=masked_mean(action_loss, action_is_pad, self.training),
            actions=chunk,
            action_loss=action_loss,
        )

    def read(
        self, pixel_values: Tensor, task_tokens: Tensor, view_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Hidden states of the language model `(B, L, E)`, and which of them count `(B, L)`."""
        num_views, has_word = self.count_views(pixel_values), task_tokens >= 0
        if view_mask is None:
            view_mask = has_word[:, :1].expand(-1, num_views)  # the first word is always there
        # Emptied before encoding: masked attention alone would let a NaN through.
        views = pixel_values.masked_fill(~view_mask[..., None, None, None], 0).to(self.dtype)
        seen = self.see(views.flatten(0, 1)).unflatten(0, (-1, num_views))  # (B, V, I, E)
        present = view_mask[..., None].expand(-1, -1, seen.shape[2]).flatten(1)
        present = torch.cat([has_word, present], dim=1)  # (B, L)
        words = self.backbone.get_input_embeddings()(task_tokens.clamp(min=0))
        seen = (seen + self.view_places[:num_views, None]).flatten(1, 2)
        output = self.backbone.get_decoder()(
            inputs_embeds=torch.cat([words.to(seen.dtype), seen], dim=1),
            attention_mask=present.long(),
            position_ids=(present.cumsum(1) - 1).clamp(min=0),  # absent ones take no place
            use_cache=False,
        )
        return output.last_hidden_state, present

    def see(self, views: Tensor) -> Tensor:
        """Pictures `(M, C, H, W)` as tokens of the language model, `(M, I, E)`."""
        if views.shape[-1] != self.side:
            shape = (self.side, self.side)
            views = F.interpolate(views, shape, mode="bilinear", antialias=True)
        if hasattr(self.backbone, "connector"):
            # By hand: Idefics3 and SmolVLM would leave out a picture that is all zeros.
            seen = self.backbone.vision_model(pixel_values=views).last_hidden_state
            return self.backbone.connector(seen)
        seen = self.backbone.get_image_features(pixel_values=views).pooler_output
        return seen if isinstance(seen, Tensor) else torch.stack(list(seen))


def grid_waves(num_tokens: int) -> Tensor:
    """Where each token of a square picture lies: sines and cosines of its column and row.

    Args:
        num_tokens: Tokens `I` of the picture, row by row.

    Returns:
        `(I, 4 * _NUM_WAVES)`.
    """
    side = math.isqrt(num_tokens - 1) + 1
    index = torch.arange(num_tokens)
    place = torch.stack([index % side, index // side], 1) / side  # (I, 2), in [0, 1)
    angles = place[..., None] * math.pi * 2.0 ** torch.arange(_NUM_WAVES)  # (I, 2, _NUM_WAVES)
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(1)


def load_backbone(source: str, config: Any) -> Any:
    """A vision-language model without its head for words, in float32.

    Args:
        source: Folder or Hub repository.
        config: Its configuration, of fewer layers perhaps.

    Raises:
        ValueError: If weights are missing: transformers would go on with random numbers.
    """
    model, info = AutoModel.from_pretrained(
        source, config=config, dtype=torch.float32, output_loading_info=True
    )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"The weights in {source!r} must be those of a {config.model_type}, but {len(missing)} "
            f"are missing, as {missing[0]!r}. Fetch or save the folder again."
        )
    return model


def add_adapters(model: Any, rank: int) -> None:
    """Put low-rank adapters (LoRA) beside all linear layers, in place; they alone learn.

    Raises:
        ImportError: Without `peft`.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError(
            '`train_backbone="lora"` needs the package `peft`, which is not installed. Install '
            '`lawm_hf[vlm]`, or train "all" or "none" of the backbone.'
        ) from error
    options = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    inject_adapter_in_model(options, model)


AutoModel.register(VlmPolicyConfig, VlmPolicy, exist_ok=True)
VlmPolicy.register_for_auto_class("AutoModel")
