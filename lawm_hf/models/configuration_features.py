# SPDX-License-Identifier: Apache-2.0
"""Configuration of the world model in feature space."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .configuration_lawm import LAWMWorldModelConfig

# Without a backbone: one layer of a ResNet, 64 features at every fourth pixel, never trained.
_RANDOM_BACKBONE: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 32,
    "hidden_sizes": [64],
    "depths": [1],
    "layer_type": "basic",
}


@strict
class FeatureWorldConfig(LAWMWorldModelConfig):
    """Backbone and sizes of a `FeatureWorldModel`.

    Args:
        image_size: Side of the square frames in pixels, a multiple of 4.
        action_size: Numbers `A` in one (latent) action.
        backbone: Hub id (`id@revision`) or folder of the vision model whose features are predicted,
            of any type that transformers' `AutoModel` knows. Empty for a small network of random
            weights, the same ones each time, which needs no download.
        backbone_config: Its configuration. Filled in when its weights are fetched, once: a saved
            world model holds the backbone and needs nothing else. With an empty `backbone`, that of
            the random network.
        backbone_size: Side to which frames are resized for the backbone. By default what its
            configuration says (`image_size`), or that of the frames.
        image_mean: Mean of the colours that the backbone was trained with.
        image_std: Their standard deviation.
        hidden_size: Width of the transformer over the latents.
        num_layers: Its layers.
        num_heads: Its attention heads.
        num_decoded_steps: Predict only this many of the `N` steps in a training update: the last,
            which all latents lead to, and others drawn at random. All of them if `None`, and always
            in evaluation.
        decoder_size: Channels of the decoder, which draws pictures for reports and teaches nothing
            else.
        motion_weight: Weight of changed pixels in what the decoder learns; see `DreamerV3Config`.
    """

    model_type = "lawm_features"
    presets: ClassVar = {
        "default": {},
        "tiny": {"image_size": 32, "hidden_size": 128, "num_decoded_steps": 4},
    }

    backbone: str = ""
    backbone_config: dict[str, Any] | None = None
    backbone_size: int | None = None
    image_mean: list[float | int] | tuple[float | int, ...] = tuple(IMAGENET_DEFAULT_MEAN)
    image_std: list[float | int] | tuple[float | int, ...] = tuple(IMAGENET_DEFAULT_STD)
    hidden_size: int = 256
    num_layers: int = 2
    num_heads: int = 4
    num_decoded_steps: int | None = None
    decoder_size: int = 32
    motion_weight: float | int = 1.0

    def __post_init__(self, **kwargs):
        if not self.backbone and self.backbone_config is None:
            self.backbone_config = dict(_RANDOM_BACKBONE)
        super().__post_init__(**kwargs)

    def validate_sizes(self):
        """Sizes are positive and fit together."""
        for name in ("action_size", "hidden_size", "num_layers", "num_heads", "decoder_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.image_size < 8 or self.image_size % 4:
            raise ValueError(
                f"`image_size` must be a multiple of 4 and at least 8, got {self.image_size}. "
                "Resize the frames."
            )
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"`hidden_size` must be an even multiple of `num_heads`, got {self.hidden_size} "
                f"and {self.num_heads}."
            )
        if self.num_decoded_steps is not None and self.num_decoded_steps < 2:
            raise ValueError(
                f"`num_decoded_steps` must be at least 2, the last and one other, got "
                f"{self.num_decoded_steps}. Leave it out to predict every step."
            )
        if not self.motion_weight >= 0:
            raise ValueError(f"`motion_weight` must not be negative, got {self.motion_weight}.")

    def validate_backbone(self):
        """Colours are three numbers, and a configuration names its type."""
        for name in ("image_mean", "image_std"):
            if len(getattr(self, name)) != 3:
                raise ValueError(
                    f"`{name}` must be a number for each of R, G, B, got {getattr(self, name)}."
                )
        if self.backbone_config is not None and "model_type" not in self.backbone_config:
            raise ValueError(
                "`backbone_config` must name its `model_type`, got "
                f"{sorted(self.backbone_config)}. Take that of a `config.json`."
            )
