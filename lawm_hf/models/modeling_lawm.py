# SPDX-License-Identifier: Apache-2.0
"""What a policy is, and what a world model is: the two base classes.

Paper: Latent Action Pretraining Through World Modeling (https://arxiv.org/abs/2509.18428). Any
policy and any world model that keep to these go together in `LAWMForPretraining`.

Shapes: `B` batch, `V` views, `N` chunk steps, `C,H,W` image, `P` state, `L` task embedding,
`A` action.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_MAPPING
from transformers import initialization as init

from .configuration_lawm import LAWMPolicyConfig, LAWMWorldModelConfig
from .inference_lawm import compile_policy
from .loading_lawm import LAWMModel, load_config
from .modeling_outputs import LatentNorm, PolicyOutput, WorldModelOutput


class LAWMPolicy(LAWMModel, abstract=True):
    """An observation and an instruction in, a chunk of actions out.

    The base of all policies, and the entry point: `LAWMPolicy.from_pretrained(folder_or_repo)`
    returns the subclass that the configuration names. A subclass writes `forward` and names its
    last action layer; its last line before the loss is `chunk = self.bound(raw)`.
    """

    config_class = LAWMPolicyConfig
    base_model_prefix = "lawm"
    main_input_name = "pixel_values"
    # Modules of the last action layer: what finetuning re-initialises.
    action_head_prefixes: tuple[str, ...] = ()
    # Modules of the vision encoder, which learns at a rate of its own in the recipes.
    vision_parameter_prefixes: tuple[str, ...] = ()
    # Modules that only the robot's state reaches, which most video does not have.
    state_parameter_prefixes: tuple[str, ...] = ()

    def __init__(self, config: LAWMPolicyConfig):
        super().__init__(config)
        self.latent_norm = LatentNorm(config.chunk_size * config.action_size)

    @classmethod
    def from_latent_pretraining(cls, folder: str | Path, **sizes: int) -> "LAWMPolicy":
        """The policy of a pretraining run, ready for finetuning: with a fresh last action layer.

        Args:
            folder: Folder or Hub repository that `recipes/pretrain.py` has written.
            **sizes: `action_size`, `state_size` or `num_views` of the robot, where they are not
                those of pretraining: the layers that depend on them start afresh, too.
        """
        config = load_config(folder, LAWMPolicyConfig, subfolder="policy")
        before = _weight_names(config)
        config.update(sizes)
        policy = cls.from_pretrained(
            folder,
            subfolder="policy",
            config=config,
            ignore_mismatched_sizes=True,
            may_lack=before ^ _weight_names(config),  # layers of a state that only one side has
        )
        policy.reset_action_head()
        return policy

    def count_views(self, pixel_values: Tensor) -> int:
        """Views `V` in `(B, V, C, H, W)`.

        Raises:
            ValueError: If there are more than the policy can tell apart, or they are of another
                size than those that it is trained on.
        """
        num_views, size = pixel_values.shape[1], self.config.image_size
        if pixel_values.shape[-2:] != (size, size):
            raise ValueError(
                f"This policy sees views of {size} x {size} pixels, got "
                f"{' x '.join(map(str, pixel_values.shape[-2:]))}. Take the processor that was "
                f"saved with it, or make one: `LAWMProcessor(image_size={size}, ...)`."
            )
        if num_views > self.config.num_views:
            raise ValueError(
                f"This policy tells {self.config.num_views} views apart, got {num_views}. "
                "Give fewer, or build it with a larger `num_views`."
            )
        return num_views

    def bound(self, raw: Tensor) -> Tensor:
        """Turn what the last layer says, `(B, N * A)` or `(B, N, A)`, into a chunk in [-1, 1].

        `config.latent_norm="batch"` standardises it first: see `LatentNorm`.
        """
        flat = raw.flatten(1)
        if self.config.latent_norm == "batch":
            flat = self.latent_norm(flat)
        return flat.tanh().unflatten(1, (self.config.chunk_size, self.config.action_size))

    def forward(self, pixel_values: Tensor, task_embeds: Tensor, **kwargs: Any) -> PolicyOutput:
        """Predict a chunk, and its loss when `actions` are given.

        Args:
            pixel_values: Views normalised by the processor, `(B, V, C, H, W)`.
            task_embeds: Instruction embeddings, `(B, L)`.
            **kwargs: `state` `(B, P)`, `state_mask` `(B,)`, `view_mask` `(B, V)`: absent ones are
                masked. `actions` `(B, N, A)` in [-1, 1] and `action_is_pad` `(B, N)`: the targets.
        """
        raise NotImplementedError

    @torch.no_grad()
    def predict_action_chunk(self, **observation: Tensor) -> Tensor:
        """Chunk to execute, `(B, N, A)` in [-1, 1], from the observation keys of `forward`."""
        actions = self(**observation).actions
        assert actions is not None, "without targets `forward` returns a chunk"
        return actions

    def draw_noise(
        self, batch_size: int, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Noise that `predict_action_chunk` takes by name; none for a deterministic policy."""
        return {}

    def compile_acting(self) -> None:
        """`torch.compile` what `predict_action_chunk` computes, in place, at its next use."""
        compiled = torch.compile(self.predict_action_chunk)
        object.__setattr__(self, "predict_action_chunk", compiled)

    def compile_for_inference(self) -> "LAWMPolicy":
        """A copy whose `predict_action_chunk` is compiled ahead of time, for the device it is on.

        About 1.5 times as fast on a CPU, the same to 1e-5 in float32, for any batch; it takes a
        C++ compiler and about a minute (docs/performance.md). The policy itself stays as it is. The
        copy has its weights and saves those; it cannot be trained, `forward` is not compiled, and
        new weights or another device do not reach the program: compile again.

        Returns:
            The copy, in evaluation mode. It takes observations as the processor gives them for this
            configuration, without masks.

        Raises:
            ValueError: If the policy cannot be captured as one graph.
            RuntimeError: If there is no C++ compiler.
        """
        return compile_policy(self)

    def named_part(self, attribute: str) -> dict[str, nn.Parameter]:
        """Parameters of the modules named by `action_head_prefixes` or `vision_parameter_prefixes`.

        Raises:
            ValueError: If it names none: whoever asks would go on as if nothing had to be done.
        """
        prefixes = tuple(f"{prefix}." for prefix in getattr(self, attribute))
        found = {n: p for n, p in self.named_parameters() if prefixes and n.startswith(prefixes)}
        if not found:
            raise ValueError(
                f"`{type(self).__name__}.{attribute}` must name modules with parameters, got "
                f"{getattr(self, attribute)!r}. Set it in the class, for example to "
                f"{tuple(name for name, _ in self.named_children())[-1:]}."
            )
        return found

    def freeze_vision(self) -> list[str]:
        """Stop training the vision encoder; returns the names of its parameters."""
        vision = self.named_part("vision_parameter_prefixes")
        for parameter in vision.values():
            parameter.requires_grad_(False)
        return list(vision)

    def freeze_state(self) -> list[str]:
        """Stop training what only the robot's state reaches; returns the names, if any."""
        has_any = self.config.state_size and self.state_parameter_prefixes
        state = self.named_part("state_parameter_prefixes") if has_any else {}
        for parameter in state.values():
            parameter.requires_grad_(False)
        return list(state)

    @torch.no_grad()
    def reset_action_head(self) -> list[str]:
        """Re-initialise the last action layer, as the paper does before finetuning (§III-B).

        Also turns `latent_norm` off and forgets its statistics: it belongs to that layer.

        Returns:
            Names of the parameters that were re-initialised.

        Raises:
            ValueError: If the policy names no such layer, or its numbers stay what they were.
        """
        before = {k: p.clone() for k, p in self.named_part("action_head_prefixes").items()}
        self.config.latent_norm = "none"
        for prefix in self.action_head_prefixes:
            for child in self.get_submodule(prefix).modules():
                # Transformers marks what it has initialised, and leaves that alone.
                marked: tuple[Any, ...] = (child, *child.parameters(recurse=False))
                for item in marked:
                    item._is_hf_initialized = False
                self._init_weights(child)
        after = self.named_part("action_head_prefixes")
        if all(torch.equal(after[name], old) for name, old in before.items()):
            raise ValueError(
                f"`{type(self).__name__}._init_weights` must re-initialise the modules of "
                f"{self.action_head_prefixes}, but all their numbers stayed. Let it handle them."
            )
        for module in self.modules():
            if isinstance(module, LatentNorm):
                module.reset()
        return list(before)

    def _init_weights(self, module: nn.Module) -> None:
        """Transformers' defaults; a subclass with initialisation of its own may do without."""
        if isinstance(module, LatentNorm):
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
        else:
            super()._init_weights(module)


class LAWMWorldModel(LAWMModel, abstract=True):
    """A frame and actions in, the frames that follow out.

    The base of all world models; `LAWMWorldModel.from_pretrained` returns the subclass that the
    configuration names. A subclass writes `forward` and `predict_frames`; the rest has defaults.
    """

    config_class = LAWMWorldModelConfig
    base_model_prefix = "world_model"
    main_input_name = "frames"

    def forward(
        self, frames: Tensor, actions: Tensor, frame_is_pad: Tensor | None = None, **noise: Tensor
    ) -> WorldModelOutput:
        """Loss of predicting `x_{t+1} .. x_{t+N}`, differentiable in the actions.

        Where the configuration has `num_views` above 1, `C` is 3 for each view, one after the
        other; where it has a `state_size`, `frame_states` `(B, N+1, P)` is given too, and
        `first_state` `(B, P)` to `predict_frames`.

        Args:
            frames: `x_t .. x_{t+N}`, `(B, N+1, C, H, W)`, uint8 or float in [0, 1].
            actions: `(B, N, A)`; action `k` leads from frame `k` to frame `k+1`.
            frame_is_pad: `(B, N+1)`. Padded frames add nothing to the loss.
            **noise: What `draw_noise` returns; a model without it takes none.
        """
        raise NotImplementedError

    def predict_frames(self, first_frame: Tensor, actions: Tensor) -> Tensor:
        """Frames `(B, N, C, H, W)`, nominally in [0, 1], from `x_t` alone and actions `(B, N, A)`.

        Args:
            first_frame: `x_t`, `(B, C, H, W)`, uint8 or float in [0, 1].
            actions: `(B, N, A)`.
        """
        raise NotImplementedError

    def predict_states(self, first_frame: Tensor, actions: Tensor, first_state: Tensor) -> Tensor:
        """The robot's states `(B, N, P)` beside those frames, normalised; see `forward`."""
        raise NotImplementedError

    def redraw_frames(self, frames: Tensor, actions: Tensor) -> Tensor | None:
        """Each of the frames `(B, N+1, C, H, W)` drawn after seeing it, if training does so."""
        return None

    def draw_noise(self, frames: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Noise for `forward`, to compare actions under the same; none for a deterministic one."""
        return {}


def _weight_names(config: LAWMPolicyConfig) -> frozenset[str]:
    """Names in the state dict of a policy of this configuration."""
    if type(config) not in MODEL_MAPPING:
        return frozenset()
    policy_class: Any = MODEL_MAPPING[type(config)]
    with torch.device("meta"):
        return frozenset(policy_class(config).state_dict())
