# SPDX-License-Identifier: Apache-2.0
"""DreamerV3 as LAWM's world model: frame encoder, recurrent state-space model, frame decoder.

It is given frames `x_t .. x_{t+N}` and `N` actions; action `k` leads from frame `k` to frame `k+1`,
so that each action, the first included, is needed to predict a frame. The losses are about the
predicted frames `x_{t+1} .. x_{t+N}`; frame `x_t` is only observed (paper §III-A).

Shapes: `B` batch, `N` chunk steps, `C,H,W` image (`C` is 3 for each view), `A` action, `P` the
robot's state, `E` frame embedding, `D` deter, `S×K` stoch.
"""

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers import initialization as init

from .configuration_dreamer import DreamerV3Config
from .images_lawm import send

# Not used here, nor is `SharedOnHub`: remote code of a folder is loaded with direct imports only.
from .inference_lawm import compile_policy  # noqa: F401
from .loading_lawm import LAWMModel  # noqa: F401
from .modeling_frames import NUM_CHANNELS, FrameDecoder, FrameEncoder, StateCoder
from .modeling_lawm import LAWMWorldModel
from .modeling_objectives import FixedFeatures, hide_patches, lay_over
from .modeling_outputs import (
    WorldModelOutput,
    check_clip,
    check_states,
    draw_steps,
    frame_error,
    masked_mean,
    spread_steps,
)
from .modeling_rssm import RSSM, RSSMState, categorical_kl
from .scan_linear import BlockLinear, ScanLinear
from .sharing_lawm import SharedOnHub  # noqa: F401
from .strided_conv import DownConv, UpConv


class DreamerV3WorldModel(LAWMWorldModel):
    """Predicts the frames that follow a frame from the actions in between.

    Trained in one of two ways, `config.training_states`:

    * `"posterior"`, the paper's eq. 5: each frame is encoded, its latent state inferred and the
      frame drawn again from it; the KL divergence keeps that state predictable from the actions.
    * `"imagination"`: the latent states are predicted from the first frame and the actions, and
      the frames drawn from those. There is no other way to a good prediction than the actions.
    """

    config_class = DreamerV3Config
    config: DreamerV3Config
    uses_all_parameters = True
    supports_gradient_checkpointing = True
    _no_split_modules = ["FrameEncoder", "FrameDecoder"]  # noqa: RUF012

    def __init__(self, config: DreamerV3Config):
        super().__init__(config)
        self.encoder = FrameEncoder(config)
        self.rssm = RSSM(config)
        self.decoder = FrameDecoder(config)
        if config.frame_loss == "features":
            self.features = FixedFeatures(NUM_CHANNELS)
        if config.state_size:
            self.states = StateCoder(config)
        self.post_init()

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        frames: Tensor,
        actions: Tensor,
        frame_is_pad: Tensor | None = None,
        noise: Tensor | None = None,
        frame_states: Tensor | None = None,
    ) -> WorldModelOutput:
        """Loss of predicting `x_{t+1} .. x_{t+N}`.

        Args:
            frames: `x_t .. x_{t+N}`, `(B, N+1, C, H, W)`, uint8 or float in [0, 1].
            actions: `(B, N, A)`; action `k` leads from frame `k` to frame `k+1`.
            frame_is_pad: `(B, N+1)`. Padded frames are neither seen nor compared.
            noise: Uniform in [0, 1), `(B, N+1, S)`, one number for each categorical variable of
                each frame. Give the same to compare actions without sampling noise. By default
                fresh noise in training, and the most likely classes in evaluation.
            frame_states: With `config.state_size`, the robot's normalised state beside each frame,
                `(B, N+1, P)`.

        Returns:
            Losses of each step, 0 where the frame is padding. With `config.num_decoded_steps` the
            reconstruction of a step that was left out is 0 as well, and that of the others is
            scaled up, so that the average over steps estimates the same number.
        """
        self._check_inputs(frames, actions, frame_is_pad, noise)
        check_states(frame_states, frames.shape[:2], self.config.state_size)
        num_steps = actions.shape[1]
        is_posterior = self.config.training_states == "posterior"
        if frame_is_pad is not None:
            frames = frames.masked_fill(frame_is_pad[:, :, None, None, None], 0)
            if frame_states is not None:
                frame_states = frame_states.masked_fill(frame_is_pad[:, :, None], 0)
        images = seen = self._centre(frames if is_posterior else frames[:, :1])
        if self.training and self.config.mask_ratio:
            seen = hide_patches(images, self.config.mask_ratio)
        if noise is None and self.training:
            shape = (*frames.shape[:2], self.config.num_categoricals)
            noise = torch.rand(shape, device=frames.device)
        wanted = self.config.num_decoded_steps if self.training else None
        steps = draw_steps(wanted, num_steps, frames.device)
        where = None if steps is None else send(steps, frames.device)
        if is_posterior:
            embeds = self._embed(seen, frame_states)
            states = self.rssm.observe(embeds, actions, noise=noise).at(slice(1, None))
            kl = self._kl(states)  # (B, N)
            targets = images[:, 1:]
            if where is not None:
                states, targets = states.at(where), targets[:, where]
        else:
            start, later = (None, None) if noise is None else (noise[:, 0], noise[:, 1:])
            state = self.rssm.initial_state(self._embed(seen, frame_states)[:, 0], start)
            states = self.rssm.imagine(state, actions, later, steps)
            kl = images.new_zeros(actions.shape[:2])
            targets = self._centre(frames[:, 1:] if where is None else frames[:, where + 1])
        first = images[:, :1]
        drawn = self._draw(states, first, seen[:, :1])
        errors = {"reconstruction_loss": self._error(drawn, targets, first)}  # (B, N) each
        if frame_states is not None:
            errors["state_loss"] = self._state_error(states, frame_states, where)
        if where is not None:
            weight = num_steps / len(where)
            errors = {k: spread_steps(e, where, weight, num_steps) for k, e in errors.items()}
        errors["kl_loss"] = kl
        is_pad = None if frame_is_pad is None else frame_is_pad[:, 1:]
        if is_pad is not None:
            errors = {k: error.masked_fill(is_pad, 0) for k, error in errors.items()}
        loss = self.config.reconstruction_scale * errors["reconstruction_loss"] + errors["kl_loss"]
        if "state_loss" in errors:
            loss = loss + self.config.state_scale * errors["state_loss"]
        return WorldModelOutput(loss=masked_mean(loss, is_pad, self.training), **errors)

    def predict_frames(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, first_frame: Tensor, actions: Tensor, first_state: Tensor | None = None
    ) -> Tensor:
        """See `LAWMWorldModel.predict_frames`."""
        states = self._predict(first_frame, actions, first_state)
        return self.decode(states, first_frame=first_frame)

    def predict_states(self, first_frame: Tensor, actions: Tensor, first_state: Tensor) -> Tensor:
        """See `LAWMWorldModel.predict_states`."""
        states = self._predict(first_frame, actions, first_state)
        return self.states.draw(states.deter, states.stoch, first_state[:, None])

    def _predict(
        self, first_frame: Tensor, actions: Tensor, first_state: Tensor | None
    ) -> RSSMState:
        first_state = None if first_state is None else first_state[:, None]
        state = self.initial_state(self.encode(first_frame[:, None], first_state)[:, 0])
        return self.imagine(state, actions)

    def redraw_frames(
        self, frames: Tensor, actions: Tensor, frame_states: Tensor | None = None
    ) -> Tensor | None:
        """See `LAWMWorldModel.redraw_frames`; imagination never draws a frame that was seen."""
        if self.config.training_states == "imagination":
            return None
        states = self.observe(self.encode(frames, frame_states), actions)
        return self.decode(states, first_frame=frames[:, 0])

    def draw_noise(self, frames: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """See `LAWMWorldModel.draw_noise`: one number for each categorical of each frame."""
        shape = (*frames.shape[:2], self.config.num_categoricals)
        return {"noise": torch.rand(shape, generator=generator).to(frames.device)}

    def encode(self, frames: Tensor, frame_states: Tensor | None = None) -> Tensor:
        """Embed frames `(B, T, C, H, W)`, uint8 or float in [0, 1], as `(B, T, E)`.

        With `config.state_size` also the robot's normalised states beside them, `(B, T, P)`.
        """
        check_states(frame_states, frames.shape[:2], self.config.state_size)
        return self._embed(self._centre(frames), frame_states)

    def initial_state(self, embed: Tensor, noise: Tensor | None = None) -> RSSMState:
        """Latent state of a first frame from its embedding `(B, E)`; see `RSSM.initial_state`."""
        return self.rssm.initial_state(embed, noise)

    def observe(
        self,
        embeds: Tensor,
        actions: Tensor,
        state: RSSMState | None = None,
        noise: Tensor | None = None,
    ) -> RSSMState:
        """Latent states of frames that were seen; see `RSSM.observe`."""
        return self.rssm.observe(embeds, actions, state, noise)

    def imagine(self, state: RSSMState, actions: Tensor, noise: Tensor | None = None) -> RSSMState:
        """Latent states that actions `(B, N, A)` lead to; see `RSSM.imagine`."""
        return self.rssm.imagine(state, actions, noise)

    def decode(self, states: RSSMState, first_frame: Tensor | None = None) -> Tensor:
        """Draw frames from latent states.

        Args:
            states: `(B, N, ...)`.
            first_frame: `x_t`, `(B, C, H, W)`, uint8 or float in [0, 1]; what a residual decoder
                changes, ignored by a plain one.

        Returns:
            `(B, N, C, H, W)`, nominally in [0, 1] but not clipped.

        Raises:
            ValueError: If a residual decoder has no frame to change.
        """
        if not self.config.residual_decoder:
            return self._draw(states) + 0.5
        if first_frame is None:
            raise ValueError(
                "A residual decoder draws the difference to the first frame: pass `first_frame`."
            )
        return self._draw(states, self._centre(first_frame[:, None])) + 0.5

    def _draw(
        self, states: RSSMState, first: Tensor | None = None, seen: Tensor | None = None
    ) -> Tensor:
        """Images in [-0.5, 0.5] of `(B, N, ...)` states; a plain decoder needs no first one.

        Of the first one the encoder sees `seen`, if that is not all.
        """
        skips: list[Tensor] = []
        if self.config.decoder_skips and first is not None:
            self.encoder((first if seen is None else seen)[:, 0].to(self.dtype), skips)
            size = (-1, states.deter.shape[1], -1, -1, -1)
            skips = [maps[:, None].expand(size).flatten(0, 1) for maps in skips]
        drawn = self.decoder(states.deter.flatten(0, 1), states.stoch.flatten(0, 1), skips)
        drawn = drawn.float().unflatten(0, states.deter.shape[:2])
        if first is None or not self.config.residual_decoder:
            return drawn
        if self.config.residual == "composite":
            views = zip(first.split(3, 2), drawn.split(4, 2), strict=True)
            return torch.cat([lay_over(*view) for view in views], 2)
        return drawn + first

    def _error(self, drawn: Tensor, targets: Tensor, first: Tensor) -> Tensor:
        """Error `(B, N)` of drawn images, summed over the views, each of which moves on its own."""
        views = zip(*(i.split(NUM_CHANNELS, 2) for i in (drawn, targets, first)), strict=True)
        return torch.stack([self._view_error(*view) for view in views]).sum(0)

    def _view_error(self, drawn: Tensor, targets: Tensor, first: Tensor) -> Tensor:
        """Error `(B, N)` of one view: of its pixels, or averaged over scales of features."""
        weight = self.config.motion_weight
        if self.config.frame_loss == "pixels":
            return frame_error(drawn, targets, first, weight)
        maps = (self.features(images) for images in (drawn, targets, first))
        errors = [frame_error(d, t, f, weight) for d, t, f in zip(*maps, strict=True)]
        return torch.stack(errors).mean(0)  # over the scales

    def _state_error(self, states: RSSMState, seen: Tensor, where: Tensor | None) -> Tensor:
        """Squared error `(B, n)` of the robot's states, of which `seen` `(B, N+1, P)` is all."""
        targets = seen[:, 1:] if where is None else seen[:, where + 1]
        drawn = self.states.draw(states.deter, states.stoch, seen[:, :1])
        return (drawn - targets).square().sum(-1)

    def _kl(self, states: RSSMState) -> Tensor:
        """Weighted KL terms `(B, N)` of posterior states: DreamerV3's balancing and free nats."""
        posterior, prior = states.log_probs, self.rssm.prior(states.deter)
        dyn = categorical_kl(posterior.detach(), prior).clamp(min=self.config.free_nats)
        rep = categorical_kl(posterior, prior.detach()).clamp(min=self.config.free_nats)
        return self.config.dyn_scale * dyn + self.config.rep_scale * rep

    def _centre(self, frames: Tensor) -> Tensor:
        """Images in [-0.5, 0.5], float32 and channels-last, of frames `(B, T, C, H, W)`."""
        images = frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        if frames.dtype == torch.uint8:
            images = images.float().div_(255).sub_(0.5)
        else:
            images = images.float() - 0.5
        return images.unflatten(0, frames.shape[:2])

    def _embed(self, images: Tensor, frame_states: Tensor | None = None) -> Tensor:
        embeds = self.encoder(images.flatten(0, 1).to(self.dtype)).unflatten(0, images.shape[:2])
        if frame_states is None:
            return embeds
        return embeds + self.states.embed(frame_states[:, : images.shape[1]])

    def _check_inputs(
        self, frames: Tensor, actions: Tensor, frame_is_pad: Tensor | None, noise: Tensor | None
    ) -> None:
        c = self.config
        check_clip(frames, actions, frame_is_pad, c.image_size, c.action_size, c.num_views)
        expected = (*frames.shape[:2], self.config.num_categoricals)
        if noise is not None and noise.shape != expected:
            raise ValueError(
                f"`noise` must have shape (B, N+1, S) = {expected}, got {tuple(noise.shape)}."
            )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Truncated normal of variance 2 / (fan in + fan out), as DreamerV3 (2023)."""
        if isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
        elif isinstance(module, DownConv | UpConv):
            taps = module.kernel_size[0] * module.kernel_size[1]
            fans = taps * (module.in_channels + module.out_channels)
            # Residual decoding starts near a copy of the first frame, plain decoding near mid-grey:
            # the noise of a last layer at full scale is a plateau of hundreds of updates. 0.01, and
            # not 0, so that every layer receives gradient from the first update on.
            is_last = module is self.decoder.layers[-1]
            _init_truncated(module.weight, fans, 0.01 if is_last else 1.0)
        elif isinstance(module, ScanLinear | BlockLinear):
            is_last = self.config.state_size and module is self.states.decoder
            _init_truncated(module.weight, module.fans, 0.01 if is_last else 1.0)
        elif isinstance(module, FixedFeatures):
            module.draw_kernels()
        for name, parameter in module.named_parameters(recurse=False):
            if name.endswith("bias") or name == "initial_deter":
                init.zeros_(parameter)


def _init_truncated(weight: Tensor, fans: int, scale: float = 1.0) -> None:
    # A normal truncated at two standard deviations has the variance of 0.8796 of them.
    std = scale * (2 / fans) ** 0.5 / 0.8796
    init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


DreamerV3Config.register_for_auto_class()
DreamerV3WorldModel.register_for_auto_class("AutoModel")
AutoConfig.register(DreamerV3Config.model_type, DreamerV3Config, exist_ok=True)
AutoModel.register(DreamerV3Config, DreamerV3WorldModel, exist_ok=True)
