# SPDX-License-Identifier: Apache-2.0
"""Configuration of the DreamerV3 world model, and the presets the paper sweeps over."""

from typing import Any, ClassVar, Literal, Self

from huggingface_hub.dataclasses import strict

from .configuration_lawm import LAWMWorldModelConfig

# name: (deter_size, hidden_size, num_categoricals, num_classes, depth), `configs.yaml` of
# danijar/dreamerv3. The names are nominal: see the true parameter counts in the tests.
PRESETS = {
    "tiny": (512, 128, 8, 32, 16),  # ours: 32-pixel frames of the embedded tabletop, on a laptop
    "1m": (512, 64, 32, 4, 4),
    "12m": (2048, 256, 32, 16, 16),
    "25m": (3072, 384, 32, 24, 24),
    "50m": (4096, 512, 32, 32, 32),  # the paper's default
    "100m": (6144, 768, 32, 48, 48),
    "200m": (8192, 1024, 32, 64, 64),
    "400m": (12288, 1536, 32, 96, 96),
}

# The paper's eq. 5 as the LAWM authors train it; the defaults are what learned in our measurements.
PAPER_FORM: dict[str, Any] = {
    "training_states": "posterior",
    "initial_state": "learned",
    "residual_decoder": False,
    "motion_weight": 0.0,
}


@strict
class DreamerV3Config(LAWMWorldModelConfig):
    """Sizes and objective of a `DreamerV3WorldModel`.

    Args:
        image_size: Side of the square frames in pixels, a multiple of 32.
        action_size: Numbers `A` in one (latent) action.
        num_views: Views `V` that are predicted; their channels are stacked, the main one first.
        state_size: Numbers `P` of the robot's state, which is then seen and predicted beside the
            frames; 0 for video alone.
        state_scale: Weight of the state's squared error, summed over its normalised numbers. It
            moves by 1.4 on the tabletop, where a view of 32 pixels moves by 38.
        deter_size: Width `D` of the deterministic state.
        hidden_size: Width of the hidden layers of the recurrent model.
        num_categoricals: Categorical variables `S` in the stochastic state.
        num_classes: Classes `K` of each.
        depth: Channels of the encoder's first layer; each further layer doubles them.
        num_blocks: Blocks of the recurrent weights. 8 is DreamerV3 of 2024; 1 is the dense
            LayerNorm-GRU of the LAWM authors (and of DreamerV3 of 2023).
        decoder_kernel_size: Kernel of the transposed convolutions. 4, a multiple of the stride,
            draws no checkerboard and takes a third fewer operations than the authors' 5.
        initial_state: Where the deterministic state of the first frame comes from. `"learned"`: a
            learned vector and one recurrent step with a zero action, so the first frame enters
            only through its categoricals. `"frame"`: a projection of the first frame's embedding,
            continuous, so that details of the frame reach the prediction at once.
        training_states: Which latent states training draws frames from (`objective` before).
            `"posterior"` is the paper's eq. 5: every frame is reconstructed from a state that saw
            it, and the KL divergence teaches the prediction of that state. `"imagination"` predicts
            all frames from the first one and the actions alone.
        residual_decoder: The decoder draws the difference to the first frame, and starts near
            zero: at initialisation the prediction is a copy of the first frame.
        residual: What a residual decoder draws. `"difference"` is added to the first frame.
            `"composite"` is a picture and its opacity, laid over the first frame: to take a thing
            away it need not know what colour the thing had.
        decoder_skips: The decoder sees the encoder's maps of the first frame, as in a U-Net: what
            stands still, or is uncovered, need not pass through the latent state.
        mask_ratio: Share of the patches (8 x 8 to a frame) that the encoder does not see in
            training, the same in all frames of a clip, so that the actions have to tell more.
            A residual decoder changes the whole first frame all the same: that frame is no
            target, and filling its holes would be most of the loss, and nothing about motion.
        frame_loss: `"pixels"`, or `"features"`: the squared error is taken between the features
            of a fixed random network of predicted and true frames, which `motion_weight` weighs
            as it does pixels. The health report measures pixels for either.
        motion_weight: Weight of changed pixels. 0 is the plain squared error; otherwise a pixel
            weighs `0.2 + motion_weight * min(1, 4 |x_{t+k} - x_t|)`.
        num_decoded_steps: Decode and compare only this many of the `N` steps in a training update,
            drawn at random; all of them if `None`, and always in evaluation.
        reconstruction_scale: Weight of the reconstruction in the loss.
        dyn_scale: Weight of the KL term that trains the prior (0.5 in the authors' code; DreamerV3
            of 2024 has 1.0).
        rep_scale: Weight of the KL term that trains the posterior.
        free_nats: KL divergence of a step below which neither term trains.
        unimix: Share of the uniform distribution mixed into each categorical.
    """

    model_type = "lawm_dreamerv3"
    attribute_map: ClassVar = {"objective": "training_states"}
    retired_options = frozenset({"num_channels"})

    num_views: int = 1  # pyright: ignore[reportIncompatibleVariableOverride]
    state_size: int = 0  # pyright: ignore[reportIncompatibleVariableOverride]
    state_scale: float | int = 10.0
    deter_size: int = 4096
    hidden_size: int = 512
    num_categoricals: int = 32
    num_classes: int = 32
    depth: int = 32
    num_blocks: int = 8
    decoder_kernel_size: Literal[4, 5] = 4
    initial_state: Literal["learned", "frame"] = "frame"
    training_states: Literal["posterior", "imagination"] = "imagination"
    residual_decoder: bool = True
    residual: str = "difference"
    decoder_skips: bool = False
    mask_ratio: float | int = 0.0
    frame_loss: Literal["pixels", "features"] = "pixels"
    motion_weight: float | int = 1.0
    num_decoded_steps: int | None = None
    reconstruction_scale: float | int = 1.0
    dyn_scale: float | int = 0.5
    rep_scale: float | int = 0.1
    free_nats: float | int = 1.0
    unimix: float | int = 0.01

    @classmethod
    def from_preset(
        cls,
        name: str,
        variant: Literal["default", "paper", "authors"] = "default",
        image_size: int | None = None,
        action_size: int = 7,
        **overrides: Any,
    ) -> Self:
        """Configuration of a published size.

        Args:
            name: One of `PRESETS`.
            variant: `"default"` is DreamerV3 of 2024: block-diagonal recurrent weights, 32
                categoricals. `"paper"` is the same network trained in the paper's form (eq. 5:
                posterior, learned initial state, plain decoder, plain squared error). `"authors"`
                is that form in the network that the LAWM authors' code builds: a dense GRU, 32
                *classes* in as many categoricals as the preset has classes, transposed convolutions
                of kernel 5. It has about three times the parameters.
            image_size: Side of the frames; 128 as in the authors' code, 32 for `"tiny"`.
            action_size: Numbers in one action.
            **overrides: Any other option.

        Raises:
            ValueError: If there is no such preset or variant.
        """
        if name not in PRESETS:
            raise ValueError(f"There is no preset {name!r}. Choose one of {', '.join(PRESETS)}.")
        deter, hidden, categoricals, classes, depth = PRESETS[name]
        sizes: dict[str, Any] = {
            "image_size": image_size or (32 if name == "tiny" else 128),
            "action_size": action_size,
            "deter_size": deter,
            "hidden_size": hidden,
            "num_categoricals": categoricals,
            "num_classes": classes,
            "depth": depth,
        }
        if name == "tiny":
            sizes |= {"num_blocks": 1, "num_decoded_steps": 4}
        if variant not in ("default", "paper", "authors"):
            raise ValueError(f'`variant` must be "default", "paper" or "authors", got {variant!r}.')
        if variant != "default":
            sizes |= PAPER_FORM
        if variant == "authors":
            sizes |= {"num_blocks": 1, "decoder_kernel_size": 5}
            if name != "tiny":
                sizes |= {"num_categoricals": classes, "num_classes": categoricals}
        return cls(**(sizes | overrides))

    @property
    def num_stages(self) -> int:
        """Layers that halve the frame: as many as leave a side of 4 pixels or little more."""
        side, stages = self.image_size, 0
        while side % 2 == 0 and side >= 8:
            side, stages = side // 2, stages + 1
        return stages

    @property
    def grid_size(self) -> int:
        """Side of the smallest feature map."""
        return self.image_size >> self.num_stages

    @property
    def grid_channels(self) -> int:
        """Channels of the smallest feature map."""
        return self.depth << (self.num_stages - 1)

    @property
    def embed_size(self) -> int:
        """Numbers `E` in a frame's embedding."""
        return self.grid_size**2 * self.grid_channels

    @property
    def stoch_size(self) -> int:
        """Numbers in the stochastic state, `S*K`."""
        return self.num_categoricals * self.num_classes

    def validate_image_size(self):
        """Frames can be halved down to a small grid."""
        if self.image_size < 32 or self.image_size % 32:
            raise ValueError(
                f"`image_size` must be a multiple of 32, got {self.image_size}. Resize the frames."
            )

    def validate_sizes(self):
        """Sizes are positive and the blocks divide them."""
        for name in (
            *("action_size", "deter_size", "hidden_size", "num_categoricals"),
            *("depth", "num_blocks", "num_views"),
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.state_size < 0:
            raise ValueError(f"`state_size` must not be negative, got {self.state_size}.")
        if self.num_classes < 2:
            raise ValueError(f"`num_classes` must be at least 2, got {self.num_classes}.")
        for name in ("deter_size", "grid_channels"):
            if getattr(self, name) % self.num_blocks:
                raise ValueError(
                    f"`num_blocks` must divide `{name}`, got {self.num_blocks} and "
                    f"{getattr(self, name)}. Use fewer blocks or a larger `deter_size` and `depth`."
                )

    def validate_loss(self):
        """Weights are not negative and the objective's options make sense."""
        for name in (
            *("motion_weight", "reconstruction_scale", "state_scale", "dyn_scale", "rep_scale"),
            "free_nats",
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")
        for name in ("unimix", "mask_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must lie in [0, 1), got {getattr(self, name)}.")
        if self.residual == "flow":
            raise ValueError(
                '`residual="flow"` was removed: nothing was learned with it, since bilinear '
                "sampling has no gradient from far pixels (docs/experiments.md). Train with "
                '`residual="composite"`, which takes things away and draws them elsewhere.'
            )
        if self.residual not in ("difference", "composite"):
            raise ValueError(
                f'`residual` must be "difference" or "composite", got {self.residual!r}.'
            )
        if self.residual != "difference" and not self.residual_decoder:
            raise ValueError(
                f'A {self.residual} changes the first frame, got `residual="{self.residual}"` with '
                "`residual_decoder=False`. Set `residual_decoder=True` or leave `residual` out."
            )
        if self.decoder_skips and not self.residual_decoder:
            raise ValueError(
                "A decoder that sees the first frame changes it, got `decoder_skips=True` with "
                "`residual_decoder=False`. Set `residual_decoder=True` or leave it out."
            )
        if self.num_decoded_steps is not None and self.num_decoded_steps < 1:
            raise ValueError(
                f"`num_decoded_steps` must be at least 1, got {self.num_decoded_steps}. "
                "Leave it out to decode every step."
            )
