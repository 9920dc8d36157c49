# SPDX-License-Identifier: Apache-2.0
"""Configuration of the Diffusion Policy."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig

# Unused here, but transformers loads remote code from a folder with direct imports only.
from .configuration_lawm import LAWMPolicyConfig  # noqa: F401
from .configuration_vision import VisionPolicyConfig

_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The embedded tabletop on a laptop's CPU. After few updates a network that predicts noise
    # is not yet exact enough: 16 % of the place tasks, against 89 % (docs/experiments.md).
    "tabletop": {
        "chunk_size": 10,
        "image_size": 64,
        "stem": "patch",
        "encoder_channels": (32,),
        "encoder_depths": (1,),
        "hidden_size": 128,
        "down_dims": (64, 128),
        "step_embed_size": 128,
        "prediction_type": "sample",
    },
}


@strict
class DiffusionPolicyConfig(VisionPolicyConfig):
    """Configuration of `DiffusionPolicy`, on top of the options of `VisionPolicyConfig`.

    The defaults are the LAWM authors' network: their U-Net of 49,879,815 parameters, to the number.

    Args:
        down_dims: Channels of the U-Net's levels, finest first; multiples of 8.
        kernel_size: Odd width of the U-Net's convolutions, in chunk steps.
        step_embed_size: Width of the embedding of the diffusion step.
        prediction_type: What the U-Net predicts: the noise (the paper's eq. 7), the clean chunk, or
            the velocity `sqrt(a) noise - sqrt(1 - a) chunk`.
        num_train_timesteps: Diffusion steps of the noise schedule.
        num_inference_steps: Calls of the U-Net for one chunk to execute.
        sampler: `"ddim"`, deterministic after the first noise, or `"ddpm"`, the sampler of the
            original Diffusion Policy (with as many inference as training steps).
        latent_generator: How latent actions come from the U-Net. See `DiffusionPolicy.forward`.
        num_latent_steps: Calls of the U-Net for one chunk of latent actions.
    """

    model_type = "lawm_diffusion"
    presets = _PRESETS

    chunk_size: int = 16
    down_dims: list[int] | tuple[int, ...] = (256, 512, 1024)
    kernel_size: int = 3
    step_embed_size: int = 256
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    num_train_timesteps: int = 100
    num_inference_steps: int = 10
    sampler: Literal["ddim", "ddpm"] = "ddim"
    latent_generator: Literal["ddim", "authors"] = "ddim"
    num_latent_steps: int = 1

    def validate_unet(self):
        """Sizes suit GroupNorm with 8 groups and symmetric convolutions."""
        if not self.down_dims or any(size < 8 or size % 8 for size in self.down_dims):
            raise ValueError(
                f"`down_dims` must be positive multiples of 8 (groups of GroupNorm), got "
                f"{self.down_dims}. Round each to a multiple of 8."
            )
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(
                f"`kernel_size` must be odd, so that a step has as many neighbours before as "
                f"behind, got {self.kernel_size}."
            )
        if self.step_embed_size < 4 or self.step_embed_size % 2:
            raise ValueError(
                f"`step_embed_size` must be even (half sines, half cosines) and at least 4, got "
                f"{self.step_embed_size}."
            )

    def validate_steps(self):
        """No sampler makes more steps than the schedule has."""
        for name in ("num_inference_steps", "num_latent_steps"):
            if not 1 <= getattr(self, name) <= self.num_train_timesteps:
                raise ValueError(
                    f"`{name}` must be between 1 and `num_train_timesteps` = "
                    f"{self.num_train_timesteps}, got {getattr(self, name)}."
                )


AutoConfig.register(DiffusionPolicyConfig.model_type, DiffusionPolicyConfig, exist_ok=True)
DiffusionPolicyConfig.register_for_auto_class()
