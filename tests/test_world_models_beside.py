# SPDX-License-Identifier: Apache-2.0
"""The world models beside DreamerV3: diffusion of frames, and prediction in feature space."""

from world_model_contract import WorldModelContract

from lawm_hf.models import FeatureWorldModel, FrameDiffusionWorldModel

DIFFUSION = {"image_size": 16, "action_size": 3, "patch_size": 2, "channels": [8, 16]}
DIFFUSION |= {"hidden_size": 16, "num_layers": 1, "num_heads": 2}
FEATURES = {"image_size": 16, "action_size": 3, "hidden_size": 16, "num_layers": 1, "num_heads": 2}
FEATURES |= {"decoder_size": 8}


class TestFrameDiffusion(WorldModelContract):
    world_model_class = FrameDiffusionWorldModel
    options = DIFFUSION


class TestFeatures(WorldModelContract):
    world_model_class = FeatureWorldModel
    options = FEATURES
