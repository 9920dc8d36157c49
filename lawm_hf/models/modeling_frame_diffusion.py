# SPDX-License-Identifier: Apache-2.0
"""A diffusion model as LAWM's world model: a U-Net removes the noise from the frames to come.

After DIAMOND (https://arxiv.org/abs/2405.12399): EDM's noise (https://arxiv.org/abs/2206.00364),
the known frame beside the noisy one, actions through adaptive group norm, few Euler steps. Two
things are different from it:

* Each frame `x_{t+k}` is drawn from `x_t` and the latents `1 .. k`, not from the frame before. A
  true previous frame shows where things are going, which leaves the latents little to say; frames
  that do not wait for each other are one batch in training and in sampling, and their errors do not
  add up.
* The network says what is clean, at every noise level, and not what is noise: a patch has more
  numbers than the network has channels, and noise fills all of them, as pictures do not
  (https://arxiv.org/abs/2511.13720).

Shapes: `B` batch, `N` chunk steps, `n` of them drawn, `C,H,W` image, `A` action.
"""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers import initialization as init

from .configuration_frame_diffusion import FrameDiffusionConfig

# Not used here, like the last one: remote code of a folder is loaded with direct imports only.
from .inference_lawm import compile_policy  # noqa: F401
from .loading_lawm import LAWMModel  # noqa: F401
from .modeling_causal import CausalTransformer, look_at_clip
from .modeling_lawm import LAWMWorldModel
from .modeling_objectives import lay_over
from .modeling_outputs import (
    WorldModelOutput,
    frame_error,
    masked_mean,
    spread_steps,
    unit_images,
)
from .sharing_lawm import SharedOnHub  # noqa: F401

NUM_CHANNELS = 3


class FrameDiffusionWorldModel(LAWMWorldModel):
    """Denoises frames, given the first one and the latents so far.

    What the network draws is laid over the first frame: untrained, it predicts nearly a copy.
    """

    config_class = FrameDiffusionConfig
    config: FrameDiffusionConfig
    uses_all_parameters = True
    supports_gradient_checkpointing = True
    start: Tensor

    def __init__(self, config: FrameDiffusionConfig):
        super().__init__(config)
        size, levels = config.hidden_size, len(config.channels)
        self.latents = CausalTransformer(
            config.action_size, size, config.num_layers, config.num_heads
        )
        patch = NUM_CHANNELS * config.patch_size**2
        self.unet = UNet2DModel(
            sample_size=config.image_size // config.patch_size,
            in_channels=2 * patch,  # the noisy frame and the first one
            out_channels=patch + config.patch_size**2,  # a picture and its opacity
            block_out_channels=tuple(config.channels),
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            layers_per_block=config.layers_per_block,
            norm_num_groups=8,
            add_attention=False,
            # Noise level and latents scale and shift what each group norm leaves.
            resnet_time_scale_shift="scale_shift",
            time_embedding_dim=size,
            class_embed_type="identity",
        )
        # One draw of the noise that sampling starts from, the same for all frames: a prediction can
        # be repeated, and two of them differ by their latents only.
        self.register_buffer("start", torch.empty(NUM_CHANNELS, *2 * (config.image_size,)))
        with torch.device("cpu"):  # models are built on the meta device, too
            self.scheduler = EDMEulerScheduler(
                sigma_min=config.min_noise, sigma_max=config.max_noise, sigma_data=config.data_std
            )
            self.scheduler.set_timesteps(config.num_sampling_steps)
        self.post_init()

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        frames: Tensor,
        actions: Tensor,
        frame_is_pad: Tensor | None = None,
        noise: Tensor | None = None,
        levels: Tensor | None = None,
    ) -> WorldModelOutput:
        """Loss of denoising `x_{t+1} .. x_{t+N}`.

        Args:
            frames: `x_t .. x_{t+N}`, `(B, N+1, C, H, W)`, uint8 or float in [0, 1].
            actions: `(B, N, A)`; action `k` leads from frame `k` to frame `k+1`.
            frame_is_pad: `(B, N+1)`. Padded frames are neither seen nor compared.
            noise: Standard normal, `(B, N, C, H, W)`. By default fresh in training, and the draw
                that sampling starts from in evaluation.
            levels: Which noise level, `(B, N)`, in standard deviations off `noise_mean`. By default
                drawn from a normal distribution in training, and 0 in evaluation.

        Returns:
            The squared error of the denoised frame at each step, 0 where the frame is padding. With
            `config.num_decoded_steps` that of a step that was left out is 0 as well, and the others
            are scaled up, so that the average over steps estimates the same number.
        """
        num_drawn = self.config.num_decoded_steps if self.training else None
        first, targets, steps, weights = look_at_clip(
            self.config, frames, actions, frame_is_pad, num_drawn
        )
        is_pad = None if frame_is_pad is None else frame_is_pad[:, 1:]
        shape = (len(frames), len(steps))
        if noise is None:
            noise = self.start.expand(*shape, -1, -1, -1)
            if self.training:
                noise = torch.randn(noise.shape, device=frames.device)
        else:
            noise = noise.index_select(1, steps)
        if levels is None:
            draw = torch.randn if self.training else torch.zeros
            levels = draw(shape, device=frames.device)
        else:
            levels = levels.index_select(1, steps)
        sigma = (self.config.noise_mean + self.config.noise_std * levels).exp()  # (B, n)
        summaries = self.latents(actions).index_select(1, steps)
        noisy = 2 * targets - 1 + sigma[..., None, None, None] * noise
        drawn = self._denoise(noisy, sigma, first, summaries)
        error = frame_error(drawn, targets, first, self.config.motion_weight)
        error = spread_steps(error, steps, weights, actions.shape[1])  # (B, N)
        if is_pad is not None:
            error = error.masked_fill(is_pad, 0)
        return WorldModelOutput(
            loss=masked_mean(error, is_pad, self.training),
            reconstruction_loss=error,
            kl_loss=torch.zeros_like(error),
        )

    def predict_frames(self, first_frame: Tensor, actions: Tensor) -> Tensor:
        """See `LAWMWorldModel.predict_frames`: `config.num_sampling_steps` steps of Euler's."""
        first = unit_images(first_frame[:, None])
        summaries = self.latents(actions)
        sigmas: list[float] = self.scheduler.sigmas.tolist()  # falling, the last one 0
        x = sigmas[0] * self.start.float().expand(*actions.shape[:2], -1, -1, -1)
        drawn = first
        for sigma, after in itertools.pairwise(sigmas):
            levels = torch.full(actions.shape[:2], sigma, device=x.device)
            drawn = self._denoise(x, levels, first, summaries)
            clean = 2 * drawn - 1
            x = clean + (after / sigma) * (x - clean)
        return drawn

    def draw_noise(self, frames: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """See `LAWMWorldModel.draw_noise`: of each frame that follows, and its level."""
        following = frames[:, 1:]
        noise = torch.randn(following.shape, generator=generator)
        levels = torch.randn(following.shape[:2], generator=generator)
        return {"noise": noise.to(frames.device), "levels": levels.to(frames.device)}

    def _denoise(self, noisy: Tensor, sigma: Tensor, first: Tensor, summaries: Tensor) -> Tensor:
        """Estimate clean frames.

        Args:
            noisy: Frames with noise, `(B, T, C, H, W)`, of pixels in [-1, 1].
            sigma: Standard deviation of the noise, `(B, T)`.
            first: `x_t`, `(B, 1, C, H, W)`, in [0, 1].
            summaries: Of the latents up to each of the frames, `(B, T, hidden_size)`.

        Returns:
            `(B, T, C, H, W)`, nominally in [0, 1], float32.
        """
        scaled = self.scheduler.precondition_inputs(noisy, sigma[..., None, None, None])
        x = torch.cat([scaled, (2 * first - 1).expand_as(scaled)], dim=2)
        x = F.pixel_unshuffle(x.flatten(0, 1).to(self.dtype), self.config.patch_size)
        x = x.contiguous(memory_format=torch.channels_last)
        levels = self.scheduler.precondition_noise(sigma.flatten())
        drawn = self.unet(x, levels, class_labels=summaries.flatten(0, 1)).sample
        drawn = F.pixel_shuffle(drawn, self.config.patch_size).float()
        return lay_over(first - 0.5, drawn.unflatten(0, noisy.shape[:2])) + 0.5

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """What torch does by default, a last layer near zero, and the draw of noise."""
        last: Any = self.unet.conv_out
        if module is last:
            # 0.01, and not 0, so that every layer receives gradient from the first update on.
            init.normal_(last.weight, std=0.01 * last.weight[0].numel() ** -0.5)
            init.zeros_(last.bias)
        elif module is self:
            init.normal_(self.start)


FrameDiffusionConfig.register_for_auto_class()
FrameDiffusionWorldModel.register_for_auto_class("AutoModel")
AutoConfig.register(FrameDiffusionConfig.model_type, FrameDiffusionConfig, exist_ok=True)
AutoModel.register(FrameDiffusionConfig, FrameDiffusionWorldModel, exist_ok=True)
