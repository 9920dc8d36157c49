# SPDX-License-Identifier: Apache-2.0
"""What every configuration shares: strict keywords; and the sizes that a policy needs."""

import difflib
from dataclasses import fields
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# Keys that are not fields of ours but may stand in a `config.json` all the same: what transformers
# adds when it saves or loads, and what LeRobot adds to a folder that both libraries read.
_TRANSFORMERS_KEYS = {
    *("model_type", "auto_map", "name_or_path", "torch_dtype", "num_labels", "output_attentions"),
    *("attn_implementation", "experts_implementation", "_commit_hash", "_name_or_path"),
    *("_attn_implementation_internal", "_experts_implementation_internal", "_attn_implementation"),
}
_LEROBOT_KEYS = {
    *("type", "n_obs_steps", "input_features", "output_features", "normalization_mapping"),
    *("device", "use_amp", "use_peft", "push_to_hub", "repo_id", "private", "tags", "license"),
    *("pretrained_path", "pretrained_revision", "n_action_steps", "aggregation", "ema_decay"),
    *("policy_type", "policy_preset", "pretrained_latent", "text_encoder", "augment"),
    *("optimizer_lr", "optimizer_vision_lr", "optimizer_weight_decay"),
    *("optimizer_grad_clip_norm", "scheduler_warmup_steps"),
}


class StrictConfig(PreTrainedConfig):
    """A configuration that rejects unknown keywords.

    `PreTrainedConfig` silently keeps `chunk_sise=8` as an attribute; here it is an error with a
    suggestion.
    """

    def __post_init__(self, **kwargs):
        known = {f.name for f in fields(self)}
        unknown = set(kwargs) - known - _TRANSFORMERS_KEYS - _LEROBOT_KEYS
        if unknown:
            name = sorted(unknown)[0]
            close = difflib.get_close_matches(name, known, n=1)
            hint = (
                f" Did you mean `{close[0]}`?" if close else f" Known: {', '.join(sorted(known))}."
            )
            raise ValueError(f"`{type(self).__name__}` has no option `{name}`.{hint}")
        super().__post_init__(**kwargs)


@strict
class LAWMPolicyConfig(StrictConfig):
    """Sizes of the observation and of the action chunk, common to all policies.

    Args:
        chunk_size: Actions `N` in one chunk.
        action_size: Numbers `A` in one action, latent or real (paper §IV: 7).
        state_size: Numbers `P` of robot proprioception; 0 for a policy that never sees any.
        task_embed_size: Width `L` of the instruction embedding that the processor computes.
        image_size: Side of the square views, in pixels.
        num_views: Most views the policy can tell apart; fewer may be given.
        latent_norm: `"batch"` standardises the last layer's output over the batch before the tanh,
            so that latent actions can neither saturate nor collapse to a constant. Part of the
            action head: dropped when the head is re-initialised for finetuning.
    """

    chunk_size: int = 10
    action_size: int = 7
    state_size: int = 8
    task_embed_size: int = 512
    image_size: int = 128
    num_views: int = 2
    latent_norm: Literal["batch", "none"] = "none"

    def validate_sizes(self):
        """Sizes are positive (the state may be absent)."""
        for name in ("chunk_size", "action_size", "task_embed_size", "image_size", "num_views"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.state_size < 0:
            raise ValueError(f"`state_size` must not be negative, got {self.state_size}.")
