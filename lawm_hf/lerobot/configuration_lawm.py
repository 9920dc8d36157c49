# SPDX-License-Identifier: Apache-2.0
"""Configuration of a LAWM policy as LeRobot knows it: `--policy.type=lawm`.

One `config.json` serves transformers and LeRobot. LeRobot rejects keys that its dataclass does not
declare, so the options of all policies are fields here; None stands for the policy's own default.
"""

from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.optim import AdamWConfig, DiffuserSchedulerConfig
from transformers import CONFIG_MAPPING, AutoConfig

from ..models import BakuConfig, DiffusionPolicyConfig, LAWMPolicyConfig
from .act import LeRobotActConfig

_POLICIES: dict[str, Any] = {
    "baku": BakuConfig,
    "diffusion": DiffusionPolicyConfig,
    "lerobot:act": LeRobotActConfig,
}
_OPTIONS = sorted({f.name for config in _POLICIES.values() for f in fields(config)})
SHARED_KEYS = [*_OPTIONS, "model_type", "auto_map"]
_ModelOptions: Any = make_dataclass("_ModelOptions", [(key, Any, None) for key in SHARED_KEYS])


@PreTrainedConfig.register_subclass("lawm")
@dataclass
class LawmConfig(_ModelOptions, PreTrainedConfig):
    """Options of a policy (`BakuConfig`, `DiffusionPolicyConfig`, …) and of its use in LeRobot.

    Args:
        policy_type: From scratch: `"baku"`, `"diffusion"` or `"lerobot:act"`.
        policy_preset: From scratch: `"default"` (the paper's sizes) or `"tabletop"`.
        pretrained_latent: Folder or Hub repository of a latent pretraining run to start from, with
            a fresh last action layer.
        text_encoder: From scratch: `"hashing"`, or the id of a transformers text model.
        augment: Shift and recolour views in training.
        n_action_steps: Steps between two calls of the policy.
        aggregation: How overlapping chunks become one action: uniform, exponential or none; see
            `ChunkAggregator`.
        ema_decay: Highest decay of averaged weights, which are then saved; 0 turns it off.
        optimizer_lr: Peak learning rate.
        optimizer_vision_lr: Peak learning rate of the vision encoder.
        optimizer_weight_decay: AdamW's weight decay, on matrices only.
        optimizer_grad_clip_norm: Clip the gradient to this norm.
        scheduler_warmup_steps: Updates of linear warm-up, before a cosine to 0.
    """

    policy_type: str = "baku"
    policy_preset: str = "default"
    pretrained_latent: str | None = None
    text_encoder: str = "hashing"
    augment: bool = True
    n_action_steps: int = 1
    aggregation: str = "none"
    ema_decay: float = 0.0
    # All identity: the policy's own processor normalises, in LeRobot as elsewhere.
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict.fromkeys(
            ("VISUAL", "STATE", "ACTION"), NormalizationMode.IDENTITY
        )
    )
    optimizer_lr: float = 1e-3
    optimizer_vision_lr: float = 3e-3
    optimizer_weight_decay: float = 1e-4
    optimizer_grad_clip_norm: float = 1.0
    scheduler_warmup_steps: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        self.adopt(self.to_transformers())
        if not 1 <= self.n_action_steps <= self.chunk_size:
            raise ValueError(
                f"`n_action_steps` must be from 1 to `chunk_size` = {self.chunk_size}, got "
                f"{self.n_action_steps}."
            )

    def to_transformers(self) -> Any:
        """The policy's configuration: a saved one, that of `pretrained_latent`, or a preset."""
        given = {key: getattr(self, key) for key in _OPTIONS if getattr(self, key) is not None}
        if self.model_type is not None:
            known = {f.name for f in fields(CONFIG_MAPPING[self.model_type])}
            return CONFIG_MAPPING[self.model_type](**{k: given[k] for k in known & given.keys()})
        if self.pretrained_latent:
            config = AutoConfig.from_pretrained(self.pretrained_latent, subfolder="policy")
            config.update({"latent_norm": "none"} | given)
            return config
        if self.policy_type not in _POLICIES:
            raise ValueError(
                f"`policy_type` must be one of {', '.join(_POLICIES)}, got {self.policy_type!r}."
            )
        return _POLICIES[self.policy_type].from_preset(self.policy_preset, **given)

    def adopt(self, config: LAWMPolicyConfig) -> None:
        """Take over the values of a transformers configuration."""
        for key, value in config.to_dict().items():
            if key in SHARED_KEYS:
                setattr(self, key, value)

    def validate_features(self) -> None:
        """Take the sizes of a new policy from the features of the data.

        Raises:
            ValueError: If there is no camera or no action.
        """
        if not self.image_features or self.action_feature is None:
            raise ValueError(
                "A LAWM policy needs at least one camera and `action`, got inputs "
                f"{list(self.input_features or {})} and outputs {list(self.output_features or {})}."
            )
        self.action_size = self.action_feature.shape[0]
        state = self.robot_state_feature
        self.state_size = state.shape[0] if state else 0
        self.num_views = max(self.num_views, len(self.image_features))

    def get_optimizer_preset(self) -> AdamWConfig:
        """AdamW; the policy's parameter groups bring their own learning rates."""
        return AdamWConfig(
            lr=self.optimizer_lr,
            betas=(0.9, 0.99),
            weight_decay=self.optimizer_weight_decay,
            grad_clip_norm=self.optimizer_grad_clip_norm,
        )

    def get_scheduler_preset(self) -> DiffuserSchedulerConfig:
        """Linear warm-up and cosine over the whole run."""
        return DiffuserSchedulerConfig(name="cosine", num_warmup_steps=self.scheduler_warmup_steps)

    @property
    def observation_delta_indices(self) -> None:
        """One observation, that of now."""
        return None

    @property
    def action_delta_indices(self) -> list[int]:
        """The chunk that begins now."""
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        """No rewards."""
        return None
