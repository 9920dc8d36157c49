# SPDX-License-Identifier: Apache-2.0
"""LeRobot's SmolVLA as a LAWM policy: its sampler is differentiable, so it has latent actions.

    accelerate launch recipes/pretrain.py --policy_type lerobot:smolvla --policy_preset default \
        --image_size 256 --output_dir outputs/smolvla
    python -m lawm_hf.lerobot.smolvla outputs/smolvla outputs/smolvla_stock --cameras front wrist
    lerobot-train --policy.path=outputs/smolvla_stock ...

LeRobot wraps SmolVLA's sampling in `no_grad`; the network below does not. Two Euler steps from
always the same noise give a repeatable chunk, and the world model's gradient goes back through both
into the action expert, and into the vision-language model where that learns. SmolVLA ends an
instruction with a newline, which here it does not.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy, VLAFlowMatching
from lerobot.policies.smolvla.processor_smolvla import make_smolvla_pre_post_processors
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers import initialization as init

from ..models import LAWMPolicy, LAWMPolicyConfig
from ..models.modeling_outputs import PolicyOutput, check_targets, masked_mean
from . import act


@strict
class LeRobotSmolVlaConfig(LAWMPolicyConfig):
    """A LAWM policy that is LeRobot's SmolVLA.

    Args:
        backbone: Id or folder of its vision-language model, a SmolVLM. As in LeRobot, configuration
            and processor are read wherever the policy is built, its weights for a new one only.
        smolvla_options: Options of LeRobot's `SmolVLAConfig`. Unless given, the vision-language
            model is frozen, as there, but starts from its weights.
        num_latent_steps: Euler steps to a chunk of latent actions; each is a pass of the expert,
            and one back in training.
    """

    model_type = "lawm_lerobot_smolvla"
    presets: ClassVar = {"default": {}, "tabletop": {"image_size": 64, "num_task_tokens": 16}}

    num_task_tokens: int = 48
    backbone: str = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"
    smolvla_options: dict[str, Any] | None = None
    num_latent_steps: int = 2

    def validate_steps(self):
        """There is a step."""
        if self.num_latent_steps < 1:
            raise ValueError(f"`num_latent_steps` must be at least 1, got {self.num_latent_steps}.")

    def to_smolvla(self, cameras: Sequence[str]) -> SmolVLAConfig:
        """LeRobot's configuration, for these cameras."""
        size = (3, self.image_size, self.image_size)
        inputs = {c: PolicyFeature(FeatureType.VISUAL, size) for c in cameras}
        inputs[OBS_STATE] = PolicyFeature(FeatureType.STATE, (self.state_size,))
        defaults: dict[str, Any] = {"load_vlm_weights": True}
        return SmolVLAConfig(
            device="cpu",
            vlm_model_name=self.backbone,
            chunk_size=self.chunk_size,
            n_action_steps=self.chunk_size,
            input_features=inputs,
            output_features={ACTION: PolicyFeature(FeatureType.ACTION, (self.action_size,))},
            **{**defaults, **(self.smolvla_options or {})},
        )

    def processor_options(self) -> dict[str, Any]:
        """See `LAWMPolicyConfig`: the model's own tokens, and pictures in [-1, 1]."""
        options = {"task_tokens": self.backbone, "num_task_tokens": self.num_task_tokens}
        return options | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


class LeRobotSmolVlaPolicy(LAWMPolicy):
    """SmolVLA: its own loss with targets; without, latents by a few steps of its sampler."""

    config_class = LeRobotSmolVlaConfig
    config: LeRobotSmolVlaConfig
    latent_start: Tensor
    action_head_prefixes = ("vla.action_out_proj",)
    vision_parameter_prefixes = ("vla.vlm_with_expert.vlm.model.vision_model",)
    state_parameter_prefixes = ("vla.state_proj",)

    def __init__(self, config: LeRobotSmolVlaConfig):
        super().__init__(config)
        self.smolvla = config.to_smolvla([f"view{i}" for i in range(config.num_views)])
        # One draw of the sampler's starting noise: where every chunk of latent actions starts.
        shape = (config.chunk_size, self.smolvla.max_action_dim)
        self.register_buffer("latent_start", torch.empty(shape))
        if self.latent_start.is_meta:  # a saved policy is loaded
            self.smolvla.load_vlm_weights = False
        self.vla = VLAFlowMatching(self.smolvla).float()
        self.num_steps = self.smolvla.num_steps
        side = self.vla.vlm_with_expert.config.vision_config.image_size
        self.side = side if isinstance(side, int) else side[0]
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The head's and the noise; all else is as SmolVLA has initialised it."""
        if module is self:
            init.normal_(self.latent_start)
        elif module is self.vla.action_out_proj:
            init.xavier_uniform_(self.vla.action_out_proj.weight)
            init.zeros_(self.vla.action_out_proj.bias)

    def freeze_parts(self) -> None:
        """As SmolVLA does when it is built."""
        self.vla.vlm_with_expert.set_requires_grad()
        self.vla.set_requires_grad()

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
        """See `LAWMPolicy.forward`; the loss is SmolVLA's, and comes without a chunk.

        Raises:
            ValueError: If there are too many views, or no `task_tokens`.
        """
        del task_embeds
        inputs = self._inputs(pixel_values, task_tokens, state, state_mask, view_mask)
        if actions is None:
            start = self.latent_start.expand(len(pixel_values), -1, -1)
            return PolicyOutput(actions=self.bound(self._sample(inputs, start, latent=True)))
        size = (len(pixel_values), self.config.chunk_size, self.config.action_size)
        check_targets(actions, action_is_pad, size)
        empty = self.smolvla.max_action_dim - self.config.action_size
        error = self.vla(*inputs, F.pad(actions, (0, empty)))
        action_loss = error[..., : self.config.action_size].mean(-1)  # (B, N)
        loss = masked_mean(action_loss, action_is_pad, self.training)
        return PolicyOutput(loss=loss, action_loss=action_loss)

    @torch.no_grad()
    def predict_action_chunk(self, noise: Tensor | None = None, **observation: Any) -> Tensor:
        """Chunk to execute, `(B, N, A)` in [-1, 1].

        Args:
            noise: Where the sampler starts, `(B, N, A)`; drawn anew by default.
            **observation: The observation keys of `forward`.
        """
        inputs = self._inputs(**observation)
        if noise is None:
            noise = self.draw_noise(len(observation["pixel_values"]))["noise"]
        rest = self.latent_start[:, self.config.action_size :].expand(len(noise), -1, -1)
        return self._sample(inputs, torch.cat([noise, rest], -1), latent=False).clamp(-1, 1)

    def draw_noise(
        self, batch_size: int, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Where a chunk starts, `noise` `(B, N, A)`."""
        shape = (batch_size, self.config.chunk_size, self.config.action_size)
        device = generator.device if generator else self.device
        return {"noise": torch.randn(shape, generator=generator, device=device).to(self.device)}

    def _sample(self, inputs: tuple[Any, ...], start: Tensor, latent: bool) -> Tensor:
        """Euler steps from a start `(B, N, max_action_dim)` to a chunk `(B, N, A)`."""
        # It reads the number there, and nobody else does.
        self.vla.config.num_steps = self.config.num_latent_steps if latent else self.num_steps
        return self.vla.sample_actions(*inputs, noise=start)[..., : self.config.action_size]

    def _inputs(
        self,
        pixel_values: Tensor,
        task_tokens: Tensor | None = None,
        state: Tensor | None = None,
        state_mask: Tensor | None = None,
        view_mask: Tensor | None = None,
        task_embeds: Tensor | None = None,
    ) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor, Tensor]:
        """What SmolVLA takes: views, which are there, tokens, which are there, padded state."""
        del task_embeds
        num_views = self.count_views(pixel_values)
        if task_tokens is None:
            raise ValueError(
                "SmolVLA reads token ids, got no `task_tokens`. Build the processor with its "
                "options: `LAWMProcessor(**policy.config.processor_options())`."
            )
        if view_mask is None:
            view_mask = (task_tokens[:, :1] >= 0).expand(-1, num_views)
        views = pixel_values.masked_fill(~view_mask[..., None, None, None], 0).flatten(0, 1)
        if views.shape[-1] != self.side:
            views = F.interpolate(views, (self.side,) * 2, mode="bilinear", antialias=True)
        views = views.unflatten(0, (-1, num_views))
        if state is None or not self.config.state_size:
            state = pixel_values.new_zeros(len(pixel_values), self.config.state_size)
        elif state_mask is not None:
            state = state.masked_fill(~state_mask[:, None], 0)
        state = F.pad(state, (0, self.smolvla.max_state_dim - state.shape[-1]))
        tokens, is_token = task_tokens.clamp(min=0), task_tokens >= 0
        return list(views.unbind(1)), list(view_mask.unbind(1)), tokens, is_token, state


AutoConfig.register(LeRobotSmolVlaConfig.model_type, LeRobotSmolVlaConfig, exist_ok=True)
AutoModel.register(LeRobotSmolVlaConfig, LeRobotSmolVlaPolicy, exist_ok=True)


def export_smolvla(pretraining: str | Path, folder: str | Path, cameras: Sequence[str]) -> None:
    """Write a stock `smolvla` folder for `lerobot-train --policy.path`, with a fresh last layer.

    Args:
        pretraining: Folder or Hub repository of a pretraining run of this policy.
        folder: Where to write.
        cameras: Cameras of the data to finetune on; `front` stands for `observation.images.front`.
    """
    policy: Any = LAWMPolicy.from_latent_pretraining(pretraining)
    keys = [c if c.startswith("observation.") else f"{OBS_IMAGES}.{c}" for c in cameras]
    config = policy.config.to_smolvla(keys)
    config.load_vlm_weights = False  # they are among those that are written
    config.resize_imgs_with_padding = (policy.side, policy.side)
    stock = SmolVLAPolicy(config)
    stock.model.load_state_dict(policy.vla.state_dict())
    stock.save_pretrained(folder)
    for pipeline in make_smolvla_pre_post_processors(config):
        pipeline.save_pretrained(folder)


if __name__ == "__main__":
    act.main(export_smolvla)
