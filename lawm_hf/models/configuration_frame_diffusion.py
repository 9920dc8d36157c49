# SPDX-License-Identifier: Apache-2.0
"""Configuration of the diffusion world model."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from .configuration_lawm import LAWMWorldModelConfig


@strict
class FrameDiffusionConfig(LAWMWorldModelConfig):
    """Sizes and noise of a `FrameDiffusionWorldModel`.

    Noise levels are standard deviations of noise on pixels in [-1, 1], as in DIAMOND.

    Args:
        image_size: Side of the square frames in pixels.
        action_size: Numbers `A` in one (latent) action.
        patch_size: Side of the patches whose pixels become channels of the U-Net, so that it works
            on `image_size / patch_size` squared positions. 1 is a U-Net over pixels.
        channels: Channels of the U-Net's levels, finest first; multiples of 8.
        layers_per_block: Residual blocks in each level.
        hidden_size: Width of the transformer over the latents, and of the condition.
        num_layers: Layers of that transformer.
        num_heads: Its attention heads.
        num_decoded_steps: Denoise only this many of the `N` frames in a training update: the last,
            which all latents lead to, and others drawn at random. All of them if `None`, and
            always in evaluation.
        noise_mean: Mean of the logarithm of the noise level in training. DIAMOND has -0.4; more
            noise leaves less of a frame to see, so that the latents have to tell more.
        noise_std: Its standard deviation.
        data_std: Standard deviation of the pixels without noise, by which inputs are scaled.
        min_noise: Least noise level in sampling.
        max_noise: Noise level that sampling starts from.
        num_sampling_steps: Denoising steps of a prediction. 1 draws the mean of all futures.
        motion_weight: Weight of changed pixels, as in `DreamerV3Config`.
    """

    model_type = "lawm_frame_diffusion"
    presets: ClassVar = {
        "default": {},
        "tiny": {
            "image_size": 32,
            "patch_size": 4,
            "channels": [32, 64],
            "hidden_size": 128,
            "num_decoded_steps": 4,
        },
    }

    patch_size: int = 2
    channels: list[int] | tuple[int, ...] = (64, 128, 128, 256)
    layers_per_block: int = 1
    hidden_size: int = 256
    num_layers: int = 2
    num_heads: int = 4
    num_decoded_steps: int | None = None
    noise_mean: float | int = 0.4
    noise_std: float | int = 1.2
    data_std: float | int = 0.5
    min_noise: float | int = 0.02
    max_noise: float | int = 5.0
    num_sampling_steps: int = 3
    motion_weight: float | int = 1.0

    def validate_image_size(self):
        """Patches can be halved as often as the U-Net does."""
        multiple = self.patch_size << (len(self.channels) - 1)
        if self.image_size < multiple or self.image_size % multiple:
            raise ValueError(
                f"`image_size` must be a multiple of {multiple}, `patch_size` times 2 for each "
                f"further level of `channels`, got {self.image_size}. Resize the frames or take "
                "fewer levels."
            )

    def validate_sizes(self):
        """Sizes are positive and the groups divide them."""
        for name in (
            *("action_size", "patch_size", "layers_per_block", "hidden_size", "num_layers"),
            *("num_heads", "num_sampling_steps"),
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not self.channels or any(size < 8 or size % 8 for size in self.channels):
            raise ValueError(f"`channels` must be multiples of 8, got {self.channels}.")
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"`hidden_size` must be an even multiple of `num_heads`, got {self.hidden_size} "
                f"and {self.num_heads}."
            )
        if self.num_decoded_steps is not None and self.num_decoded_steps < 2:
            raise ValueError(
                f"`num_decoded_steps` must be at least 2, the last and one other, got "
                f"{self.num_decoded_steps}. Leave it out to denoise every step."
            )

    def validate_noise(self):
        """Noise levels are positive and in order."""
        for name in ("noise_std", "motion_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")
        if not 0 < self.min_noise < self.max_noise or not self.data_std > 0:
            raise ValueError(
                "Noise levels must be `0 < min_noise < max_noise`, and `data_std` positive, got "
                f"{self.min_noise}, {self.max_noise} and {self.data_std}."
            )
