# SPDX-License-Identifier: Apache-2.0
"""A world model that predicts no pixels: a transformer foresees the features of a frozen backbone.

After DINO-WM (https://arxiv.org/abs/2411.04983) and V-JEPA 2-AC (https://arxiv.org/abs/2506.09985),
but all frames are predicted from the first one and the latents, and none is seen on the way. The
backbone is any vision model of transformers. Pictures are drawn by a decoder that learns beside it,
from features whose gradient is cut: what a picture looks like never reaches the latents.

Shapes: `B` batch, `N` chunk steps, `n` of them drawn, `C,H,W` image, `A` action,
`P` places, `F` features of each.
"""

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers import initialization as init

from .configuration_features import FeatureWorldConfig
from .images_lawm import constant

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
from .text_lawm import model_and_revision

NUM_CHANNELS = 3


class FeaturePredictor(nn.Module):
    """Features of the frames to come, at each place: those of the first frame and a difference."""

    def __init__(self, num_places: int, num_features: int, config: FeatureWorldConfig):
        super().__init__()
        size = config.hidden_size
        self.features_in = nn.Linear(num_features, size)
        self.places = nn.Parameter(torch.empty(num_places, size))
        self.latents = CausalTransformer(
            config.action_size, size, config.num_layers, config.num_heads
        )
        self.norm = nn.LayerNorm(size, elementwise_affine=False)
        self.film = nn.Linear(size, 2 * size)
        self.hidden = nn.Sequential(nn.Linear(size, size), nn.SiLU(), nn.Linear(size, size))
        self.out = nn.Linear(size, num_features)

    def forward(self, first: Tensor, actions: Tensor, steps: Tensor | None = None) -> Tensor:
        """Predict the features of some steps, `(n,)`, or of all.

        Args:
            first: Those of the first frame, `(B, P, F)`.
            actions: `(B, N, A)`.
            steps: Which, from 0 to `N` - 1.

        Returns:
            `(B, n, P, F)`, float32.
        """
        seen = self.features_in(first.to(self.places.dtype)) + self.places  # (B, P, hidden_size)
        summaries = self.latents(actions, before=seen)  # (B, N, hidden_size)
        if steps is not None:
            summaries = summaries.index_select(1, steps)
        scale, shift = self.film(summaries)[:, :, None].chunk(2, dim=-1)
        x = self.norm(seen)[:, None] * (1 + scale) + shift  # (B, n, P, hidden_size)
        return first[:, None] + self.out(F.silu(self.hidden(x))).float()


class FeatureDecoder(nn.Sequential):
    """Draws a picture and its opacity, to be laid over the first frame, from a map of features."""

    def __init__(self, num_features: int, size: int):
        super().__init__(
            nn.Conv2d(num_features, 2 * size, 3, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(2 * size, size, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(size, NUM_CHANNELS + 1, 4, stride=2, padding=1),
        )


class FeatureWorldModel(LAWMWorldModel):
    """Predicts what a frozen backbone will see.

    Features are those of the backbone's last layer, normalised over the channels at each place: no
    scale of its own, and none that a prediction could shrink.
    """

    config_class = FeatureWorldConfig
    config: FeatureWorldConfig
    uses_all_parameters = True

    def __init__(self, config: FeatureWorldConfig):
        super().__init__(config)
        self.backbone = load_backbone(config).eval()
        self.freeze_parts()
        side = config.image_size
        with torch.no_grad():
            example = self.encode(torch.zeros(1, 1, NUM_CHANNELS, side, side))
        num_places, num_features = example.shape[2:]
        if math.isqrt(num_places) ** 2 != num_places:
            raise ValueError(
                f"`backbone` must say something of each place on a square grid, got {num_places} "
                f"places of a {type(self.backbone).__name__}. Take another, such as a DINOv2, "
                "SigLIP or ResNet."
            )
        self.predictor = FeaturePredictor(num_places, num_features, config)
        self.decoder = FeatureDecoder(num_features, config.decoder_size)
        self.post_init()

    def freeze_parts(self) -> None:
        """The backbone never learns."""
        self.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> "FeatureWorldModel":
        """The backbone stays as it is in evaluation."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(
        self, frames: Tensor, actions: Tensor, frame_is_pad: Tensor | None = None, **noise: Tensor
    ) -> WorldModelOutput:
        """Loss of predicting the features of `x_{t+1} .. x_{t+N}`, and that of the decoder.

        Args:
            frames: `x_t .. x_{t+N}`, `(B, N+1, C, H, W)`, uint8 or float in [0, 1].
            actions: `(B, N, A)`; action `k` leads from frame `k` to frame `k+1`.
            frame_is_pad: `(B, N+1)`. Padded frames are neither seen nor compared.
            **noise: None.

        Returns:
            `loss` has both terms: the squared error of the features, averaged over `F` and summed
            over places, which alone teaches the latents, and the reconstruction, the squared error
            of what the decoder draws, which teaches the decoder alone.
        """
        num_drawn = self.config.num_decoded_steps if self.training else None
        first, targets, steps, weights = look_at_clip(
            self.config, frames, actions, frame_is_pad, num_drawn
        )
        is_pad = None if frame_is_pad is None else frame_is_pad[:, 1:]
        with torch.no_grad():
            features = self.encode(torch.cat([first, targets], dim=1))  # (B, 1 + n, P, F)
        predicted = self.predictor(features[:, 0], actions, steps)
        error = (predicted - features[:, 1:]).square().mean(-1).sum(-1)  # (B, n)
        drawn = self.draw(predicted.detach(), first)
        reconstruction = frame_error(drawn, targets, first, self.config.motion_weight)
        error, reconstruction = (
            spread_steps(e, steps, weights, actions.shape[1]) for e in (error, reconstruction)
        )  # (B, N)
        if is_pad is not None:
            error = error.masked_fill(is_pad, 0)
            reconstruction = reconstruction.masked_fill(is_pad, 0)
        return WorldModelOutput(
            loss=masked_mean(error + reconstruction, is_pad, self.training),
            reconstruction_loss=reconstruction,
            kl_loss=torch.zeros_like(error),
        )

    def predict_frames(self, first_frame: Tensor, actions: Tensor) -> Tensor:
        """See `LAWMWorldModel.predict_frames`: drawn from the predicted features."""
        first = unit_images(first_frame[:, None])
        return self.draw(self.predictor(self.encode(first)[:, 0], actions), first)

    def encode(self, images: Tensor) -> Tensor:
        """Normalised features `(B, T, P, F)`, float32, of images `(B, T, C, H, W)` in [0, 1]."""
        device, dtype = images.device, next(self.backbone.parameters()).dtype
        mean, std = (
            constant(tuple(numbers), device)[:, None, None]
            for numbers in (self.config.image_mean, self.config.image_std)
        )
        x = (images.flatten(0, 1).float() - mean) / std
        side = self._backbone_side()
        if x.shape[-1] != side:
            x = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
        seen = self.backbone(pixel_values=x.to(dtype)).last_hidden_state
        if seen.dim() == 4:  # a map (M, F, h, w)
            seen = seen.flatten(2).transpose(1, 2)
        elif patch_size := getattr(self.backbone.config, "patch_size", None):
            seen = seen[:, -((side // patch_size) ** 2) :]  # without class and register tokens
        seen = F.layer_norm(seen.float(), seen.shape[-1:])
        return seen.unflatten(0, images.shape[:2])

    def draw(self, features: Tensor, first: Tensor) -> Tensor:
        """Pictures `(B, T, C, H, W)`, nominally in [0, 1].

        Args:
            features: `(B, T, P, F)`.
            first: `x_t`, `(B, 1, C, H, W)`, in [0, 1]; what the drawing is laid over.
        """
        grid, side = math.isqrt(features.shape[2]), self.config.image_size // 4
        maps = features.flatten(0, 1).transpose(1, 2).unflatten(2, (grid, grid))
        if grid != side:
            maps = F.interpolate(maps, (side, side), mode="bilinear", antialias=True)
        drawn = self.decoder(maps.to(self.dtype)).float().unflatten(0, features.shape[:2])
        return lay_over(first - 0.5, drawn) + 0.5

    def _backbone_side(self) -> int:
        own = getattr(self.backbone.config, "image_size", None)
        return self.config.backbone_size or (
            own if isinstance(own, int) else self.config.image_size
        )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """What torch does by default, and predictions that start near the first frame's features.

        0.01, and not 0, so that every layer receives gradient from the first update on.
        """
        last: Any = self.decoder[-1]
        if module is self.predictor:
            init.normal_(self.predictor.places)
        elif module is self.predictor.out:
            init.normal_(self.predictor.out.weight, std=0.01 * self.config.hidden_size**-0.5)
            init.zeros_(self.predictor.out.bias)
        elif module is last:
            init.normal_(last.weight, std=0.01 * self.config.decoder_size**-0.5)
            init.zeros_(last.bias)


def load_backbone(config: FeatureWorldConfig) -> Any:
    """The vision model that a configuration names, or whose configuration it has.

    Fetches the weights of a `backbone` whose configuration is not known yet, and fills that in.

    Raises:
        ValueError: If it is no model of images, or lacks weights other than the pooler's, which a
            state at each place does not need.
    """
    if config.backbone_config is None:
        name, revision = model_and_revision(config.backbone)
        loaded: Any = AutoModel.from_pretrained(
            name, revision=revision, dtype=torch.float32, output_loading_info=True
        )
        model, info = loaded
        if missing := sorted(key for key in info["missing_keys"] if "pooler" not in key):
            raise ValueError(
                f"`backbone` {config.backbone!r} must hold all weights of a "
                f"{type(model).__name__}, got none for {missing[:3]}. Fetch or save it again."
            )
        known = model.config.to_dict()
        own = ("_name_or_path", "dtype")  # of this machine; of the whole world model
        config.backbone_config = {k: v for k, v in known.items() if k not in own}
        if Path(name).is_dir():  # of this machine
            config.backbone = Path(name).name
    else:
        # Drawn with a seed of its own, so that without weights it is the same each time.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            model = AutoModel.from_config(AutoConfig.for_model(**config.backbone_config))
    model = getattr(model, "vision_model", model)  # of a pair of vision and text
    if model.main_input_name != "pixel_values":
        raise ValueError(
            f"`backbone` must be a vision model that takes `pixel_values`, got "
            f"{type(model).__name__} of {config.backbone!r}. Take one such as a DINOv2, SigLIP or "
            "ResNet."
        )
    return model


FeatureWorldConfig.register_for_auto_class()
FeatureWorldModel.register_for_auto_class("AutoModel")
AutoConfig.register(FeatureWorldConfig.model_type, FeatureWorldConfig, exist_ok=True)
AutoModel.register(FeatureWorldConfig, FeatureWorldModel, exist_ok=True)
