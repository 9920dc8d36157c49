# SPDX-License-Identifier: Apache-2.0
"""A diffusion model as LAWM's world model: a U-Net removes the noise from the frames to come.

After DIAMOND (https://arxiv.org/abs/2405.12399): EDM's preconditioning and noise
(https://arxiv.org/abs/2206.00364), the known frame beside the noisy one, actions through adaptive
group norm, few Euler steps. Different from it, each frame `x_{t+k}` is drawn directly from `x_t`
and the latents `1 .. k`, not from the frame before. A true previous frame shows where things are
going, which leaves the latents little to say; frames that do not wait for each other are one batch
in training and in sampling, and their errors do not add up.

Shapes: `B` batch, `N` chunk steps, `C,H,W` image, `A` action; `M` frames at once.
"""

import itertools

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers import initialization as init

from .configuration_frame_diffusion import FrameDiffusionConfig

# Unused here, but transformers loads remote code from a folder with direct imports only.
from .inference_lawm import compile_policy  # noqa: F401
from .modeling_causal import CausalTransformer
from .modeling_lawm import LAWMWorldModel
from .modeling_outputs import (
    WorldModelOutput,
    check_clip,
    frame_error,
    masked_mean,
    unit_images,
)

NUM_CHANNELS = 3


class FrameDiffusionWorldModel(LAWMWorldModel):
    """Denoises what differs from the first frame, given that frame and the latents so far.

    The difference, and not the frame: an untrained network then predicts a copy of `x_t`.
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
            in_channels=2 * patch,
            out_channels=patch,
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
            Losses of each step, 0 where the frame is padding. The reconstruction is the squared
            error of the denoised frame, and EDM's weight times it is the loss, scaled so that it is
            1 where nothing but noise can be seen. Of `config.num_decoded_steps` those that were
            left out are 0, and the others scaled up, so that the average estimates the same number.
        """
        check_clip(frames, actions, frame_is_pad, self.config.image_size, self.config.action_size)
        is_pad = None if frame_is_pad is None else frame_is_pad[:, 1:]
        if frame_is_pad is not None:
            frames = frames.masked_fill(frame_is_pad[:, :, None, None, None], 0)
        steps, weights = self._draw_steps(actions.shape[1], frames.device)
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
        sigma = (self.config.noise_mean + self.config.noise_std * levels).exp()  # (B, M / B)
        first = unit_images(frames[:, :1])
        targets = unit_images(frames.index_select(1, steps + 1))
        summaries = self.latents(actions).index_select(1, steps)
        noisy = 2 * (targets - first) + sigma[..., None, None, None] * noise
        difference = self._denoise(noisy, sigma, 2 * first - 1, summaries)
        drawn = first + difference / 2
        error = frame_error(drawn, targets, first, self.config.motion_weight) * weights
        loss = error * (1 + (self.config.data_std / sigma).square())
        zeros = error.new_zeros(actions.shape[:2])
        loss, error = (zeros.index_copy(1, steps, values) for values in (loss, error))  # (B, N)
        if is_pad is not None:
            loss, error = loss.masked_fill(is_pad, 0), error.masked_fill(is_pad, 0)
        return WorldModelOutput(
            loss=masked_mean(loss, is_pad, self.training), reconstruction_loss=error, kl_loss=zeros
        )

    def predict_frames(self, first_frame: Tensor, actions: Tensor) -> Tensor:
        """See `LAWMWorldModel.predict_frames`: `config.num_sampling_steps` steps of Euler's."""
        first = unit_images(first_frame[:, None])
        summaries = self.latents(actions)
        sigmas: list[float] = self.scheduler.sigmas.tolist()  # falling, the last one 0
        x = sigmas[0] * self.start.float().expand(*actions.shape[:2], -1, -1, -1)
        for sigma, after in itertools.pairwise(sigmas):
            levels = torch.full(actions.shape[:2], sigma, device=x.device)
            clean = self._denoise(x, levels, 2 * first - 1, summaries)
            x = clean + (after / sigma) * (x - clean)
        return first + x / 2

    def draw_noise(self, frames: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """See `LAWMWorldModel.draw_noise`: of each frame that follows, and its level."""
        following = frames[:, 1:]
        noise = torch.randn(following.shape, generator=generator)
        levels = torch.randn(following.shape[:2], generator=generator)
        return {"noise": noise.to(frames.device), "levels": levels.to(frames.device)}

    def _denoise(self, noisy: Tensor, sigma: Tensor, first: Tensor, summaries: Tensor) -> Tensor:
        """Estimate differences to the first frame.

        Args:
            noisy: Differences with noise, `(B, T, C, H, W)`, of pixels in [-1, 1].
            sigma: Standard deviation of the noise, `(B, T)`.
            first: `x_t`, `(B, 1, C, H, W)`, in [-1, 1].
            summaries: Of the latents up to each of the frames, `(B, T, hidden_size)`.

        Returns:
            `(B, T, C, H, W)`, float32.
        """
        spread = sigma[..., None, None, None]
        scaled = self.scheduler.precondition_inputs(noisy, spread)
        x = torch.cat([scaled, first.expand_as(scaled)], dim=2).flatten(0, 1).to(self.dtype)
        x = F.pixel_unshuffle(x, self.config.patch_size)
        x = x.contiguous(memory_format=torch.channels_last)
        levels = self.scheduler.precondition_noise(sigma.flatten())
        drawn = self.unet(x, levels, class_labels=summaries.flatten(0, 1)).sample
        drawn = F.pixel_shuffle(drawn, self.config.patch_size).float().view_as(noisy)
        return self.scheduler.precondition_outputs(noisy, drawn, spread)

    def _draw_steps(self, num_steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Which steps an update denoises, and how many each of them stands for."""
        num_decoded = self.config.num_decoded_steps or num_steps
        every = torch.arange(num_steps, device=device)
        if not self.training or num_decoded >= num_steps:
            return every, torch.ones(num_steps, device=device)
        others = torch.randperm(num_steps - 1, device=device)[: num_decoded - 1]
        weights = torch.ones(num_decoded, device=device)
        if num_decoded > 1:
            weights[:-1] = (num_steps - 1) / (num_decoded - 1)
        return torch.cat([others, every[-1:]]), weights

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """What torch does by default, a last layer near zero, and the draw of noise."""
        if module is self.unet.conv_out:
            # 0.01, and not 0, so that every layer receives gradient from the first update on.
            init.normal_(module.weight, std=0.01 * module.weight[0].numel() ** -0.5)
            init.zeros_(module.bias)
        elif module is self:
            init.normal_(self.start)


FrameDiffusionConfig.register_for_auto_class()
FrameDiffusionWorldModel.register_for_auto_class("AutoModel")
AutoConfig.register(FrameDiffusionConfig.model_type, FrameDiffusionConfig, exist_ok=True)
AutoModel.register(FrameDiffusionConfig, FrameDiffusionWorldModel, exist_ok=True)
