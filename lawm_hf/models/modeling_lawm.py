# SPDX-License-Identifier: Apache-2.0
"""LAWM itself: what a policy is, and the joint pretraining of a policy and a world model.

Paper: Latent Action Pretraining Through World Modeling (https://arxiv.org/abs/2509.18428).

Shapes, here and everywhere: `B` batch, `V` views, `N` chunk steps, `C,H,W` image, `P` state,
`L` task embedding, `A` action.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput

from .configuration_lawm import LAWMPolicyConfig

_HUB_KEYS = ("subfolder", "revision", "cache_dir", "token", "local_files_only", "force_download")


@dataclass
class PolicyOutput(ModelOutput):
    """What a policy returns.

    Attributes:
        loss: Behaviour-cloning loss, a scalar; only when target actions were given.
        actions: Chunk of shape `(B, N, A)`, in [-1, 1]. Differentiable; without targets these are
            the latent actions.
        action_loss: Loss of each step, `(B, N)`, before masking.
    """

    loss: Tensor | None = None
    actions: Tensor | None = None
    action_loss: Tensor | None = None


@dataclass
class WorldModelOutput(ModelOutput):
    """What a world model returns; the losses of step `k` are about frame `x_{t+k+1}`.

    Attributes:
        loss: Scalar, averaged over the steps whose frame is not padding.
        reconstruction_loss: `(B, N)`, squared error summed over the pixels of a frame.
        kl_loss: `(B, N)`, weighted KL terms in nats; zeros for an objective without a posterior.
    """

    loss: Tensor | None = None
    reconstruction_loss: Tensor | None = None
    kl_loss: Tensor | None = None


@dataclass
class PretrainingOutput(ModelOutput):
    """Loss of joint pretraining, its parts, and the latent actions `(B, N, A)` behind it."""

    loss: Tensor | None = None
    latents: Tensor | None = None
    reconstruction_loss: Tensor | None = None
    kl_loss: Tensor | None = None


def masked_mean(values: Tensor, is_pad: Tensor | None) -> Tensor:
    """Mean of `(B, N)` values over the entries that are not padding (0 where all are)."""
    if is_pad is None:
        return values.mean()
    keep = (~is_pad).to(values.dtype)
    return (values * keep).sum() / keep.sum().clamp(min=1)


class LatentNorm(nn.Module):
    """Standardises each of the `N*A` outputs over the batch, across all processes.

    Why: with a plain tanh the latents saturate within a few hundred updates and the policy's
    gradient vanishes, or they collapse to a constant; unit variance before the tanh prevents both.
    `nn.BatchNorm1d` would do on one process; `nn.SyncBatchNorm` does not run on CPUs.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, size: int, momentum: float = 0.1, eps: float = 1e-4):
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_var", torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Standardise `(B, N*A)` by batch statistics in training, running ones in evaluation."""
        if not self.training:
            return (x - self.running_mean) * (self.running_var + self.eps).rsqrt()
        dtype, x = x.dtype, x.float()
        moments = torch.stack([x.mean(0), x.square().mean(0)])  # (2, N*A)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            moments = dist_functional.all_reduce(moments) / dist.get_world_size()
        mean, var = moments[0], (moments[1] - moments[0].square()).clamp(min=0)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var, self.momentum)
        return ((x - mean) * (var + self.eps).rsqrt()).to(dtype)


class LAWMPolicy(PreTrainedModel):
    """An observation and an instruction in, a chunk of actions out.

    The base of all policies, and the entry point: `LAWMPolicy.from_pretrained(folder_or_repo)`
    returns the subclass that the configuration names.
    """

    config_class = LAWMPolicyConfig
    base_model_prefix = "lawm"
    main_input_name = "pixel_values"
    # Names, within the state dict, of the last action layer: what finetuning re-initialises.
    action_head_prefixes: tuple[str, ...] = ()
    # Names of the vision encoder, which learns at a rate of its own in the recipes.
    vision_parameter_prefixes: tuple[str, ...] = ()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, config=None, **kwargs) -> Any:
        """Load a policy from a folder or a Hub repository; see `PreTrainedModel.from_pretrained`.

        Raises:
            ValueError: If the folder holds something that is not one of this package's policies, or
                weights are missing or left over.
        """
        if cls is not LAWMPolicy:
            wants_info = kwargs.pop("output_loading_info", False)
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path,
                *args,
                config=config,
                output_loading_info=True,
                **kwargs,
            )
            policy, info = loaded
            wrong = {k: sorted(info[k]) for k in ("missing_keys", "unexpected_keys") if info[k]}
            if wrong:
                raise ValueError(
                    f"The weights in {str(pretrained_model_name_or_path)!r} must be those of a "
                    f"`{cls.__name__}` of its configuration, got {wrong}. Transformers would go on "
                    "with random numbers. Fetch or save the folder again."
                )
            return (policy, info) if wants_info else policy
        if config is None:
            hub = {key: kwargs[key] for key in _HUB_KEYS if key in kwargs}
            raw, _ = LAWMPolicyConfig.get_config_dict(pretrained_model_name_or_path, **hub)
            model_type = raw.get("model_type", "")
        else:
            model_type = config.model_type
        if model_type.startswith("lawm_lerobot_"):  # registered when imported, with LeRobot
            importlib.import_module(f"lawm_hf.lerobot.{model_type.removeprefix('lawm_lerobot_')}")
        # Its `get` does not know what `AutoConfig.register` added.
        known = model_type in CONFIG_MAPPING
        config_class = CONFIG_MAPPING[model_type] if known else object
        if not issubclass(config_class, LAWMPolicyConfig):
            raise ValueError(
                f"`LAWMPolicy.from_pretrained` needs the folder of a LAWM policy, got `model_type` "
                f"{model_type!r} in {pretrained_model_name_or_path!r}. A pretraining run keeps its "
                'policy in a subfolder: pass `subfolder="policy"`.'
            )
        policy_class: Any = MODEL_MAPPING[config_class]
        return policy_class.from_pretrained(
            pretrained_model_name_or_path, *args, config=config, **kwargs
        )

    @classmethod
    def from_latent_pretraining(cls, folder: str | Path, **sizes: int) -> "LAWMPolicy":
        """The policy of a pretraining run, ready for finetuning: with a fresh last action layer.

        Args:
            folder: Folder or Hub repository that `recipes/pretrain.py` has written.
            **sizes: `action_size`, `state_size` or `num_views` of the robot, where they are not
                those of pretraining: the layers that depend on them start afresh, too.
        """
        config = AutoConfig.from_pretrained(folder, subfolder="policy")
        config.update(sizes)
        policy = cls.from_pretrained(
            folder, subfolder="policy", config=config, ignore_mismatched_sizes=True
        )
        policy.reset_action_head()
        return policy

    def count_views(self, pixel_values: Tensor) -> int:
        """Views `V` in `(B, V, C, H, W)`.

        Raises:
            ValueError: If there are more than the policy can tell apart.
        """
        num_views = pixel_values.shape[1]
        if num_views > self.config.num_views:
            raise ValueError(
                f"This policy tells {self.config.num_views} views apart, got {num_views}. "
                "Give fewer, or build it with a larger `num_views`."
            )
        return num_views

    def forward(self, pixel_values: Tensor, task_embeds: Tensor, **kwargs: Any) -> PolicyOutput:
        """Predict a chunk, and its loss when `actions` are given.

        Args:
            pixel_values: Views normalised by the processor, `(B, V, C, H, W)`.
            task_embeds: Instruction embeddings, `(B, L)`.
            **kwargs: `state` `(B, P)`, `state_mask` `(B,)`, `view_mask` `(B, V)`: absent ones are
                masked. `actions` `(B, N, A)` in [-1, 1] and `action_is_pad` `(B, N)`: the targets.
        """
        raise NotImplementedError

    @torch.no_grad()
    def predict_action_chunk(self, **observation: Tensor) -> Tensor:
        """Chunk to execute, `(B, N, A)` in [-1, 1], from the observation keys of `forward`."""
        raise NotImplementedError

    @torch.no_grad()
    def reset_action_head(self) -> list[str]:
        """Re-initialise the last action layer, as the paper does before finetuning (§III-B).

        Also turns `latent_norm` off and forgets its statistics: it belongs to that layer.

        Returns:
            Names of the parameters that were re-initialised.
        """
        self.config.latent_norm = "none"
        names = []
        for prefix in self.action_head_prefixes:
            module = self.get_submodule(prefix)
            for child in module.modules():
                # Transformers marks what it has initialised, and leaves that alone.
                marked: tuple[Any, ...] = (child, *child.parameters(recurse=False))
                for item in marked:
                    item._is_hf_initialized = False
                self._init_weights(child)
            names += [f"{prefix}.{name}" for name, _ in module.named_parameters()]
        for module in self.modules():
            if isinstance(module, LatentNorm):
                module.running_mean.zero_()
                module.running_var.fill_(1)
        return names


class LawmForPretraining(nn.Module):
    """The paper in one forward: latent actions must let the world model predict the next frames.

    Any pair will do whose policy returns a differentiable chunk without targets and whose world
    model takes `(frames, actions, frame_is_pad)`.

    Args:
        policy: The policy.
        world_model: The world model.
        cut_gradient: For a control: the latents reach the world model without their gradient, so
            the policy learns nothing. The authors' released code does this by mistake.
    """

    def __init__(
        self, policy: LAWMPolicy, world_model: PreTrainedModel, cut_gradient: bool = False
    ):
        super().__init__()
        for name in ("chunk_size", "action_size"):
            ours, theirs = getattr(policy.config, name), getattr(world_model.config, name, None)
            if theirs is not None and ours != theirs:
                raise ValueError(
                    f"Policy and world model must agree on `{name}`, got {ours} and {theirs}. "
                    "Build both configurations with the same value."
                )
        self.policy, self.world_model = policy, world_model
        self.cut_gradient = cut_gradient

    def forward(
        self, frames: Tensor, frame_is_pad: Tensor | None = None, **observation: Tensor
    ) -> PretrainingOutput:
        """Predict `x_{t+1..t+N}` from `x_t` and the policy's latent actions.

        Latent action `k` leads from frame `k` to frame `k+1`.

        Args:
            frames: `x_t .. x_{t+N}`, `(B, N+1, C, H, W)`, uint8 or float in [0, 1].
            frame_is_pad: `(B, N+1)`; padded frames add nothing to the loss.
            **observation: Inputs of the policy at time `t`.
        """
        latents = self.policy(**observation).actions  # (B, N, A)
        actions = latents.detach() if self.cut_gradient else latents
        prediction = self.world_model(frames=frames, actions=actions, frame_is_pad=frame_is_pad)
        return PretrainingOutput(
            loss=prediction.loss,
            latents=latents,
            reconstruction_loss=prediction.reconstruction_loss,
            kl_loss=prediction.kl_loss,
        )

    def save_pretrained(self, folder: str | Path, **kwargs: Any) -> None:
        """Write `policy/` and `world_model/` below a folder."""
        self.policy.save_pretrained(Path(folder) / "policy", **kwargs)
        self.world_model.save_pretrained(Path(folder) / "world_model", **kwargs)
