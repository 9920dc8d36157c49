# SPDX-License-Identifier: Apache-2.0
"""Configuration of joint pretraining: those of its two models, and what ties them."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig

from .configuration_lawm import (
    LAWMPolicyConfig,
    LAWMWorldModelConfig,
    StrictConfig,
    find_config_class,
)


@strict
class LAWMPretrainingConfig(StrictConfig):
    """Configuration of a `LAWMForPretraining`.

    Args:
        policy: The policy's configuration, or its dictionary.
        world_model: The world model's.
        cut_gradient: For a control: the latents reach the world model without their gradient, so
            the policy learns nothing. The authors' released code does this by mistake.
    """

    model_type = "lawm_pretraining"
    sub_configs: ClassVar[Any] = {"policy": AutoConfig, "world_model": AutoConfig}

    policy: Any = None
    world_model: Any = None
    cut_gradient: bool = False

    def __post_init__(self, **kwargs):
        bases = {"policy": LAWMPolicyConfig, "world_model": LAWMWorldModelConfig}
        for name, base in bases.items():
            options = getattr(self, name)
            if isinstance(options, dict):
                package = options.get("defined_in", "")
                found = find_config_class(options.get("model_type", ""), base, package)
                setattr(self, name, found(**options))
        super().__post_init__(**kwargs)


AutoConfig.register(LAWMPretrainingConfig.model_type, LAWMPretrainingConfig, exist_ok=True)
