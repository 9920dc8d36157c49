# SPDX-License-Identifier: Apache-2.0
"""LeRobot's ACT as a LAWM policy: pretrain its latent actions here, finetune it in stock LeRobot.

    accelerate launch recipes/pretrain.py --policy_type lerobot:act --output_dir outputs/act
    python -m lawm_hf.lerobot.act outputs/act outputs/act_stock --cameras front wrist
    lerobot-train --policy.path=outputs/act_stock --lawm.discover_packages_path=lawm_hf.lerobot ...

ACT reads no instructions. Here their embedding takes the place of ACT's *environment state*, and in
LeRobot a step of the preprocessor computes it: the network is LeRobot's, unchanged.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACT, ACTPolicy
from lerobot.processor.factory import (
    make_default_policy_processor_steps,
    make_policy_processor_pipelines,
)
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_IMAGES, OBS_STATE
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers import initialization as init

from ..models import LAWMPolicy, LAWMPolicyConfig, LAWMProcessor
from ..models.modeling_outputs import PolicyOutput, check_targets, masked_mean
from .task_embedding import TaskEmbeddingStep


@strict
class LeRobotActConfig(LAWMPolicyConfig):
    """A LAWM policy that is LeRobot's ACT.

    Args:
        act_options: Options of LeRobot's `ACTConfig`. Unless given, ACT has no variational encoder
            (there is no action to encode in pretraining) and a backbone without ImageNet weights.
    """

    model_type = "lawm_lerobot_act"
    presets: ClassVar = {
        "default": {},
        "tabletop": {
            "image_size": 64,
            "act_options": {"dim_model": 128, "n_heads": 4, "dim_feedforward": 512},
        },
    }

    act_options: dict[str, Any] | None = None

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> Self:
        """See `StrictConfig`; `act_options` add to the preset's."""
        config = super().from_preset(name, **overrides)
        own = overrides.get("act_options") or {}
        config.act_options = {**cls.presets[name].get("act_options", {}), **own}
        return config

    def to_act(self, cameras: Sequence[str]) -> ACTConfig:
        """LeRobot's configuration, for these cameras."""
        side = self.image_size
        inputs = {c: PolicyFeature(FeatureType.VISUAL, (3, side, side)) for c in cameras}
        # ACT cannot do without a state, if only to learn the device from.
        inputs[OBS_STATE] = PolicyFeature(FeatureType.STATE, (max(1, self.state_size),))
        inputs[OBS_ENV_STATE] = PolicyFeature(FeatureType.ENV, (self.task_embed_size,))
        defaults: dict[str, Any] = {"use_vae": False, "pretrained_backbone_weights": None}
        return ACTConfig(
            device="cpu",
            chunk_size=self.chunk_size,
            n_action_steps=self.chunk_size,
            input_features=inputs,
            output_features={ACTION: PolicyFeature(FeatureType.ACTION, (self.action_size,))},
            **{**defaults, **(self.act_options or {})},
        )


class LeRobotActPolicy(LAWMPolicy):
    """ACT with latent actions: its output, standardised and bounded, until it has targets."""

    config_class = LeRobotActConfig
    config: LeRobotActConfig
    action_head_prefixes = ("act.action_head",)
    vision_parameter_prefixes = ("act.backbone",)

    def __init__(self, config: LeRobotActConfig):
        super().__init__(config)
        self.act = ACT(config.to_act([f"view{i}" for i in range(config.num_views)]))
        # ACT makes its latent, zeros, in float32, whatever its weights are.
        self.act.encoder_latent_input_proj.register_forward_pre_hook(_as_weights)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The head's and the norm's; all else is as ACT has initialised it."""
        if module is self.act.action_head:
            init.xavier_uniform_(self.act.action_head.weight)
            init.zeros_(self.act.action_head.bias)

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
        """See `LAWMPolicy.forward`; the loss is ACT's, the mean absolute error.

        Raises:
            ValueError: If there are too many views, or one is masked: ACT attends to all it gets.
        """
        self.count_views(pixel_values)
        if view_mask is not None:
            _refuse_missing(view_mask)
        if state is None or not self.config.state_size:
            state = pixel_values.new_zeros(len(pixel_values), max(1, self.config.state_size))
        if state_mask is not None:
            state = state * state_mask[:, None]
        batch: dict[str, Any] = {OBS_STATE: state.to(self.dtype)}
        batch[OBS_IMAGES] = list(pixel_values.to(self.dtype).unbind(1))
        batch[OBS_ENV_STATE] = task_embeds.to(self.dtype)
        chunk: Tensor = self.act(batch)[0]  # (B, N, A)
        chunk = self.bound(chunk)
        if actions is None:
            return PolicyOutput(actions=chunk)
        check_targets(actions, action_is_pad, chunk.shape)
        action_loss = F.l1_loss(chunk, actions, reduction="none").mean(-1)
        return PolicyOutput(
            loss=masked_mean(action_loss, action_is_pad), actions=chunk, action_loss=action_loss
        )


def _as_weights(layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """The input of a linear layer in the type of its weights."""
    weight: Any = layer.weight
    return (inputs[0].to(weight.dtype),)


def _refuse_missing(view_mask: Tensor) -> None:
    """Raise if a view is masked; a GPU looks itself, so that nothing waits for it."""
    message = "ACT cannot leave out views of single samples. Give all of them."
    if view_mask.device.type != "cpu" or torch.compiler.is_compiling():
        torch._assert_async(view_mask.all(), message)  # pyright: ignore[reportPrivateImportUsage]
    elif not view_mask.all():
        raise ValueError(message)


AutoConfig.register("lawm_lerobot_act", LeRobotActConfig, exist_ok=True)
AutoModel.register(LeRobotActConfig, LeRobotActPolicy, exist_ok=True)


def export_act(pretraining: str | Path, folder: str | Path, cameras: Sequence[str]) -> None:
    """Write a stock `act` folder for `lerobot-train --policy.path`, with a fresh action head.

    Args:
        pretraining: Folder or Hub repository of a pretraining run of this policy.
        folder: Where to write.
        cameras: Cameras of the data to finetune on; `front` stands for `observation.images.front`.
    """
    policy: Any = LAWMPolicy.from_latent_pretraining(pretraining)
    processor = LAWMProcessor.from_pretrained(pretraining, subfolder="processor")
    keys = [c if c.startswith("observation.") else f"{OBS_IMAGES}.{c}" for c in cameras]
    config = policy.config.to_act(keys)
    stock = ACTPolicy(config)
    stock.model.load_state_dict(policy.act.state_dict())
    stock.save_pretrained(folder)
    steps = make_default_policy_processor_steps(config)
    embedding = TaskEmbeddingStep(
        processor.text_encoder, processor.task_embed_size, processor.task_center
    )
    before = [steps.rename_observations, steps.add_batch_dim, embedding, steps.to_device]
    pipelines = make_policy_processor_pipelines(
        [*before, steps.normalize], [steps.unnormalize, steps.to_cpu]
    )
    for pipeline in pipelines:
        pipeline.save_pretrained(folder)


def main(export: Callable[[str, str, Sequence[str]], None] = export_act) -> None:
    """The command at the head of this file."""
    parser = argparse.ArgumentParser(description="Pretrained weights as a stock LeRobot checkpoint")
    parser.add_argument("pretraining", help="folder or Hub repository of recipes/pretrain.py")
    parser.add_argument("folder", help="where to write")
    parser.add_argument("--cameras", nargs="+", required=True, help="front wrist, ...")
    args = parser.parse_args()
    try:
        export(args.pretraining, args.folder, args.cameras)
    except (OSError, ValueError) as error:  # one screen
        parser.error(str(error))


if __name__ == "__main__":
    main()
