# SPDX-License-Identifier: Apache-2.0
"""Policies, world models and the processor. Files import only their siblings (Hub remote code)."""

from .configuration_baku import BakuConfig
from .configuration_diffusion import DiffusionPolicyConfig
from .configuration_dreamer import DreamerV3Config
from .configuration_lawm import LAWMPolicyConfig
from .modeling_baku import BakuPolicy
from .modeling_diffusion import DiffusionPolicy
from .modeling_dreamer import DreamerV3WorldModel
from .modeling_lawm import LawmForPretraining, LAWMPolicy
from .processing_lawm import LAWMProcessor

__all__ = [
    "BakuConfig",
    "BakuPolicy",
    "DiffusionPolicy",
    "DiffusionPolicyConfig",
    "DreamerV3Config",
    "DreamerV3WorldModel",
    "LAWMPolicy",
    "LAWMPolicyConfig",
    "LAWMProcessor",
    "LawmForPretraining",
]
