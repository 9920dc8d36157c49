# SPDX-License-Identifier: Apache-2.0
"""Configuration of the BAKU policy."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig

# Unused here, but transformers loads remote code from a folder with direct imports only.
from .configuration_lawm import LAWMPolicyConfig  # noqa: F401
from .configuration_vision import VisionPolicyConfig

_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The embedded tabletop on a laptop's CPU: one core trains it in minutes.
    "tabletop": {
        "image_size": 64,
        "stem": "patch",
        "encoder_channels": (32,),
        "encoder_depths": (1,),
        "hidden_size": 128,
        "num_layers": 4,
        "dropout": 0.0,
    },
}


@strict
class BakuConfig(VisionPolicyConfig):
    """Sizes of a `BakuPolicy`.

    Args:
        num_layers: Blocks of the transformer.
        num_heads: Attention heads of a block.
        dropout: Dropout rate of attention, residuals and tokens, in training mode.
        action_std: Fixed standard deviation of the action distribution; the loss is its negative
            log-likelihood, as BAKU's.
    """

    model_type = "lawm_baku"
    presets = _PRESETS

    num_layers: int = 8
    num_heads: int = 4
    dropout: float | int = 0.1
    action_std: float | int = 0.1

    def validate_transformer(self):
        """Heads share the width evenly; rates and deviations make sense."""
        if self.num_layers < 1 or self.num_heads < 1 or self.hidden_size % self.num_heads:
            raise ValueError(
                "`hidden_size` must be a multiple of `num_heads`, and `num_layers` at least 1, got "
                f"{self.hidden_size}, {self.num_heads} and {self.num_layers}."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1), got {self.dropout}.")
        if self.action_std <= 0:
            raise ValueError(f"`action_std` must be positive, got {self.action_std}.")


AutoConfig.register(BakuConfig.model_type, BakuConfig, exist_ok=True)
BakuConfig.register_for_auto_class()
