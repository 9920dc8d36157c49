# SPDX-License-Identifier: Apache-2.0
"""Policies, world models and the processor. Files import only their siblings (Hub remote code)."""

import os

from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from transformers.utils.logging import disable_progress_bar

from .configuration_baku import BakuConfig
from .configuration_diffusion import DiffusionPolicyConfig
from .configuration_dreamer import DreamerV3Config
from .configuration_features import FeatureWorldConfig
from .configuration_frame_diffusion import FrameDiffusionConfig
from .configuration_lawm import LAWMPolicyConfig, LAWMWorldModelConfig
from .configuration_pretraining import LAWMPretrainingConfig
from .configuration_vlm import VlmPolicyConfig
from .modeling_baku import BakuPolicy
from .modeling_diffusion import DiffusionPolicy
from .modeling_dreamer import DreamerV3WorldModel
from .modeling_features import FeatureWorldModel
from .modeling_frame_diffusion import FrameDiffusionWorldModel
from .modeling_lawm import LAWMPolicy, LAWMWorldModel
from .modeling_outputs import PolicyOutput, PretrainingOutput, WorldModelOutput, masked_mean
from .modeling_pretraining import LAWMForPretraining, LawmForPretraining
from .modeling_vlm import VlmPolicy
from .processing_lawm import LAWMProcessor

__all__ = [
    "BakuConfig",
    "BakuPolicy",
    "DiffusionPolicy",
    "DiffusionPolicyConfig",
    "DreamerV3Config",
    "DreamerV3WorldModel",
    "FeatureWorldConfig",
    "FeatureWorldModel",
    "FrameDiffusionConfig",
    "FrameDiffusionWorldModel",
    "LAWMForPretraining",
    "LAWMPolicy",
    "LAWMPolicyConfig",
    "LAWMPretrainingConfig",
    "LAWMProcessor",
    "LAWMWorldModel",
    "LAWMWorldModelConfig",
    "LawmForPretraining",
    "PolicyOutput",
    "PretrainingOutput",
    "VlmPolicy",
    "VlmPolicyConfig",
    "WorldModelOutput",
    "masked_mean",
]


def hide_bars() -> None:
    """No bar for each file of weights that is read or written; downloads keep theirs."""
    is_shown = not are_progress_bars_disabled()
    disable_progress_bar()
    if is_shown:
        enable_progress_bars()


if os.environ.get("LAWM_QUIET"):  # A command of ours, which shows its own progress.
    hide_bars()
