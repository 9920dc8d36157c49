# SPDX-License-Identifier: Apache-2.0
"""Diffusion Policy with latent actions.

Diffusion Policy (https://arxiv.org/abs/2303.04137) denoises an action chunk given an observation.
Pretraining through a world model needs more of it: a chunk that is a bounded, repeatable and
differentiable function of the observation. `DiffusionPolicy.generate_latents` says how the same
U-Net gives both.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn
from transformers import AutoModel
from transformers import initialization as init

from .configuration_diffusion import DiffusionPolicyConfig

# Not used here, like the last one: remote code of a folder is loaded with direct imports only.
from .inference_lawm import compile_policy  # noqa: F401
from .loading_lawm import LAWMModel  # noqa: F401
from .modeling_lawm import LAWMPolicy
from .modeling_outputs import PolicyOutput, check_targets, masked_mean
from .modeling_unet import ConditionalUnet
from .modeling_vision import FilmVisionEncoder, init_vision_weights
from .sharing_lawm import SharedOnHub  # noqa: F401


def repeat_last_action(actions: Tensor, is_pad: Tensor | None) -> Tensor:
    """Overwrite padded actions `(B, N, A)` by the last real one before them.

    The U-Net sees the whole chunk, so what stands behind the end of an episode must not matter.
    """
    if is_pad is None:
        return actions
    steps = torch.arange(actions.shape[1], device=actions.device)
    source = torch.where(is_pad, 0, steps).cummax(dim=1).values  # (B, N)
    return actions.gather(1, source[..., None].expand_as(actions))


class DiffusionPolicy(LAWMPolicy):
    """U-Net denoiser of action chunks, conditioned on views, state and instruction.

    With the default configuration it has 51,227,975 parameters, of which the U-Net has 49,879,815,
    as the LAWM authors'; they differ in the vision encoder and its projection (51,138,759 in all).
    """

    config_class = DiffusionPolicyConfig
    config: DiffusionPolicyConfig
    latent_start: Tensor
    signal_bits: Tensor
    action_head_prefixes = ("unet.head",)
    vision_parameter_prefixes = ("vision",)
    uses_all_parameters = True
    supports_gradient_checkpointing = True

    def __init__(self, config: DiffusionPolicyConfig):
        super().__init__(config)
        size = config.hidden_size
        self.task_projection = nn.Linear(config.task_embed_size, size)
        self.vision = FilmVisionEncoder(config)
        # Every view and the state bring one number more: 1 where present, 0 where absent.
        observation_size = config.num_views * (size + 1)
        if config.state_size:
            observation_size += config.state_size + 1
        self.observation_projection = nn.Linear(observation_size, size)
        self.unet = ConditionalUnet(
            config.action_size,
            condition_size=2 * size,
            down_dims=config.down_dims,
            kernel_size=config.kernel_size,
            step_embed_size=config.step_embed_size,
        )
        # One draw of the sampler's starting noise: where every chunk of latent actions starts.
        self.register_buffer("latent_start", torch.empty(config.chunk_size, config.action_size))
        # The training schedule, the squared factor of the clean chunk at each step: as numbers, and
        # on the device as the bits of a float32 table, which no change of dtype can round.
        with torch.device("cpu"):  # models are built on the meta device, too
            table = self._make_scheduler().alphas_cumprod
        self._signals: list[float] = table.tolist()
        self.register_buffer("signal_bits", self._table_bits(), persistent=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Conv1d | nn.ConvTranspose1d):
            # What torch does by default; transformers would draw N(0, 0.02).
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = nn.init._calculate_fan_in_and_fan_out(module.weight)[0] ** -0.5
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.GroupNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif module is self:
            init.normal_(self.latent_start)
            init.copy_(self.signal_bits, self._table_bits())  # no checkpoint holds it
        init_vision_weights(module)

    def _table_bits(self) -> Tensor:
        return torch.tensor(self._signals).view(torch.int32)

    def _make_scheduler(self) -> DDPMScheduler:
        return DDPMScheduler(
            num_train_timesteps=self.config.num_train_timesteps,
            beta_schedule="squaredcos_cap_v2",
            prediction_type=self.config.prediction_type,
            clip_sample=True,  # actions are in [-1, 1]
        )

    def encode(
        self,
        pixel_values: Tensor,
        task_embeds: Tensor,
        state: Tensor | None = None,
        state_mask: Tensor | None = None,
        view_mask: Tensor | None = None,
    ) -> Tensor:
        """Turn an observation into the U-Net's condition, `(B, 2 * hidden_size)`.

        What is masked or absent enters as zeros, whatever was passed in its place.

        Raises:
            ValueError: If there are more views than `num_views`.
        """
        num_views = self.count_views(pixel_values)
        batch_size, dtype = len(pixel_values), self.dtype
        pixel_values, task_embeds = pixel_values.to(dtype), task_embeds.to(dtype)
        if view_mask is None:
            view_mask = pixel_values.new_ones(batch_size, num_views, dtype=torch.bool)
        else:
            pixel_values = pixel_values.masked_fill(~view_mask[..., None, None, None], 0)
        tokens = self.vision(pixel_values, task_embeds)  # (B, V, hidden_size)
        tokens = tokens.masked_fill(~view_mask[..., None], 0)
        parts = [torch.cat([tokens, view_mask[..., None].to(dtype)], dim=-1).flatten(1)]
        parts[0] = F.pad(
            parts[0], (0, (self.config.num_views - num_views) * (tokens.shape[-1] + 1))
        )
        if self.config.state_size:
            if state is None:
                parts.append(tokens.new_zeros(batch_size, self.config.state_size + 1))
            else:
                if state_mask is None:
                    state_mask = state.new_ones(batch_size, dtype=torch.bool)
                parts.append(state.to(dtype).masked_fill(~state_mask[:, None], 0))
                parts.append(state_mask[:, None].to(dtype))
        observation = self.observation_projection(torch.cat(parts, dim=-1))
        # Only the direction of the instruction matters, as in the vision encoder.
        task = F.normalize(task_embeds, dim=-1) * math.sqrt(task_embeds.shape[-1])
        return torch.cat([observation, self.task_projection(task)], dim=-1)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        pixel_values: Tensor,
        task_embeds: Tensor,
        state: Tensor | None = None,
        state_mask: Tensor | None = None,
        view_mask: Tensor | None = None,
        actions: Tensor | None = None,
        action_is_pad: Tensor | None = None,
    ) -> PolicyOutput:
        """Generate latent actions or, given targets, the denoising loss.

        Args:
            pixel_values: Normalised views, `(B, V, C, H, W)`.
            task_embeds: Instruction embeddings, `(B, L)`.
            state: Normalised proprioception, `(B, P)`; absent in human video.
            state_mask: `(B,)`, False where `state` is meaningless.
            view_mask: `(B, V)`, False where a view is absent.
            actions: Targets in [-1, 1], `(B, N, A)`.
            action_is_pad: `(B, N)`; padded actions influence nothing.

        Returns:
            Without targets, the latent `actions` alone. With targets, `loss` and `action_loss`, and
            no `actions`: those would cost a run of the sampler (`predict_action_chunk`).
        """
        condition = self.encode(pixel_values, task_embeds, state, state_mask, view_mask)
        if actions is None:
            return PolicyOutput(actions=self.generate_latents(condition))
        size = (len(condition), self.config.chunk_size, self.config.action_size)
        check_targets(actions, action_is_pad, size)
        chunk = repeat_last_action(actions, action_is_pad).float()
        noise = torch.randn_like(chunk)
        timesteps = torch.randint(
            self.config.num_train_timesteps, (len(chunk),), device=chunk.device
        )
        signals = self.signal_bits.view(torch.float32)[timesteps, None, None]  # (B, 1, 1)
        clean_rate, noise_rate = signals**0.5, (1 - signals) ** 0.5
        noisy = clean_rate * chunk + noise_rate * noise
        if self.config.prediction_type == "epsilon":
            target = noise
        elif self.config.prediction_type == "sample":
            target = chunk
        else:
            target = clean_rate * noise - noise_rate * chunk
        error = self._predict(noisy, timesteps, condition) - target
        action_loss = error.square().mean(dim=-1)  # (B, N)
        return PolicyOutput(
            loss=masked_mean(action_loss, action_is_pad, self.training), action_loss=action_loss
        )

    def generate_latents(self, condition: Tensor) -> Tensor:
        """Latent actions `(B, N, A)` in [-1, 1] from a condition, with gradient.

        Differentiable DDIM from always the same noise, in `num_latent_steps` calls of the U-Net,
        in the middle of as many equal parts of the schedule: at its noisy end an error of the
        predicted noise is multiplied by 2000, at its clean end it hardly counts.
        Estimates of the clean chunk are bounded by tanh, not clipped, which would stop gradients.
        Nothing is random, so an observation always has the same latent actions (in training, up
        to the batch statistics of `latent_norm="batch"`).

        The LAWM authors take `noise - U-Net(noise, 99)` instead: unbounded, and at first as random
        as the noise itself. `latent_generator="authors"` does so too, before the tanh.
        """
        config = self.config
        shape = (len(condition), config.chunk_size, config.action_size)
        if config.latent_generator == "authors":
            noise = torch.randn(shape, device=condition.device)
            return self.bound(
                noise - self._predict(noise, config.num_train_timesteps - 1, condition)
            )
        width = config.num_train_timesteps / config.num_latent_steps
        steps = [int((k + 0.5) * width) for k in reversed(range(config.num_latent_steps))]
        sample = self.latent_start.float().expand(shape)
        for step, next_step in itertools.pairwise(steps):
            clean = self._predict_clean(sample, step, condition).tanh()
            signal, noise = self._rates(step)
            next_signal, next_noise = self._rates(next_step)
            sample = next_signal * clean + next_noise / noise * (sample - signal * clean)
        return self.bound(self._predict_clean(sample, steps[-1], condition))

    def _rates(self, step: int) -> tuple[float, float]:
        """Factors of the clean chunk and of the noise in a sample at a step."""
        return self._signals[step] ** 0.5, (1 - self._signals[step]) ** 0.5

    def _predict(self, sample: Tensor, step: int | Tensor, condition: Tensor) -> Tensor:
        """The U-Net at one step, or at one for each sample: in float32, whatever its weights."""
        if isinstance(step, int):
            step = torch.full((len(sample),), step, device=sample.device)
        return self.unet(sample.to(self.dtype), step, condition).float()

    def _predict_clean(self, sample: Tensor, step: int, condition: Tensor) -> Tensor:
        """The clean chunk that the U-Net's prediction at one step implies."""
        signal, noise = self._rates(step)
        prediction = self._predict(sample, step, condition)
        if self.config.prediction_type == "epsilon":
            return (sample - noise * prediction) / signal
        if self.config.prediction_type == "sample":
            return prediction
        return signal * sample - noise * prediction

    def draw_noise(
        self, batch_size: int, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Where a chunk starts, `noise` `(B, N, A)`.

        Drawn on the generator's device, so that a seed means the same on CPU and GPU.

        Raises:
            ValueError: If the sampler draws more at each step.
        """
        if self.config.sampler != "ddim":
            raise ValueError(
                f'The sampler must be "ddim" for all noise to be drawn beforehand, got '
                f'{self.config.sampler!r}. Set `policy.config.sampler = "ddim"` and look at the '
                "success rate anew."
            )
        shape = (batch_size, self.config.chunk_size, self.config.action_size)
        return {"noise": randn_tensor(shape, generator, self.device)}

    @torch.no_grad()
    def predict_action_chunk(
        self,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        **observation: Tensor,
    ) -> Tensor:
        """Sample a chunk to execute, `(B, N, A)` in [-1, 1].

        Args:
            generator: Source of the noise, for repeatable results; None uses torch's global one.
            noise: Where to start, in place of a draw; see `draw_noise`.
            **observation: The observation keys of `forward`.
        """
        condition = self.encode(**observation)
        if self.config.sampler == "ddim":
            if noise is None:
                noise = self.draw_noise(len(condition), generator)["noise"]
            return self._sample_ddim(noise, condition).clamp(-1, 1)
        shape = (len(condition), self.config.chunk_size, self.config.action_size)
        sample = randn_tensor(shape, generator, condition.device) if noise is None else noise
        # Of its own, as it counts steps; the training schedule stays as it is.
        scheduler = self._make_scheduler()
        scheduler.set_timesteps(self.config.num_inference_steps)
        for step in scheduler.timesteps.tolist():
            prediction = self._predict(sample, step, condition)
            sample = scheduler.step(
                prediction, step, sample, generator=generator, return_dict=False
            )[0]
        return sample.clamp(-1, 1)

    def compile_acting(self) -> None:
        """See `LAWMPolicy`. The U-Net alone: a graph of all steps compiles without end."""
        self.unet.compile()

    def _sample_ddim(self, sample: Tensor, condition: Tensor) -> Tensor:
        """Denoise `(B, N, A)` in evenly spread steps down to 0, as diffusers' `DDIMScheduler` does.

        Written out, since the steps are plain numbers here: one graph, and nothing waits for a GPU.
        """
        stride = self.config.num_train_timesteps // self.config.num_inference_steps
        for index in reversed(range(self.config.num_inference_steps)):
            step = index * stride
            clean = self._predict_clean(sample, step, condition)
            signal, noise = self._rates(step)
            direction = (sample - signal * clean) / noise
            signal, noise = self._rates(step - stride) if index else (1.0, 0.0)
            sample = signal * clean.clamp(-1, 1) + noise * direction
        return sample


AutoModel.register(DiffusionPolicyConfig, DiffusionPolicy, exist_ok=True)
DiffusionPolicy.register_for_auto_class("AutoModel")
