# SPDX-License-Identifier: Apache-2.0
"""What a policy is, and what a world model is: the two base classes.

Paper: Latent Action Pretraining Through World Modeling (https://arxiv.org/abs/2509.18428). Any
policy and any world model that keep to these go together in `LAWMForPretraining`.

Shapes: `B` batch, `V` views, `N` chunk steps, `C,H,W` image, `P` state, `L` task embedding,
`A` action.
"""

from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedModel
from transformers import initialization as init

from .configuration_lawm import (
    LAWMPolicyConfig,
    LAWMWorldModelConfig,
    StrictConfig,
    find_config_class,
)
from .inference_lawm import compile_policy
from .modeling_outputs import LatentNorm, PolicyOutput, WorldModelOutput
from .sharing_lawm import SharedOnHub, not_found

_HUB_KEYS = ("subfolder", "revision", "cache_dir", "token", "local_files_only", "force_download")


def load_config(folder: str | Path, base: type[StrictConfig], **hub: Any) -> Any:
    """The configuration in a folder or Hub repository, of whatever class it names.

    Args:
        folder: Where `config.json` is.
        base: What it must be a kind of.
        **hub: `subfolder`, `revision` and so on; `trust_remote_code` to run the folder's code.

    Raises:
        ValueError: If it is of another kind, or of a package that has to be imported first.
    """
    told = {k: hub[k] for k in _HUB_KEYS if k in hub}
    try:
        if Path(folder).is_file():
            raise FileNotFoundError("it has folders only.")
        raw, _ = StrictConfig.get_config_dict(folder, **told)
        if not isinstance(raw, dict):
            raise TypeError(f"a {type(raw).__name__}")
        if not raw:  # as transformers reads a folder without one
            is_part = told.get("subfolder") == "policy"
            raise FileNotFoundError(
                "no policy/config.json, which a pretraining run has and a finetuned policy has not."
                if is_part
                else "no config.json."
            )
    except OSError as error:
        raise not_found(folder, error) from error
    except (TypeError, AttributeError) as error:  # as some transformers read a list
        raise ValueError(
            f"config.json of {str(folder)!r} must hold a mapping, got something else ({error}). "
            "Fetch or save it again."
        ) from error
    if hub.get("trust_remote_code") and "auto_map" in raw:
        return AutoConfig.from_pretrained(folder, **hub)
    hub.pop("trust_remote_code", None)
    model_type = raw.get("model_type", "")
    try:
        config_class = find_config_class(model_type, base, raw.get("defined_in", ""))
    except ValueError as error:
        raise ValueError(
            f"{str(folder)!r} must hold a {base.__name__.removesuffix('Config')}. {error} A "
            'pretraining run keeps its parts in subfolders: `subfolder="policy"`, '
            '`subfolder="world_model"`.'
        ) from error
    try:
        return config_class.from_pretrained(folder, **hub)
    except StrictDataclassError as error:  # says not where
        why = " ".join(str(error.__cause__ or error).split())
        raise ValueError(
            f"config.json of {str(folder)!r} must hold a `{config_class.__name__}`, got: {why} "
            "Fetch or save it again."
        ) from error


class LAWMModel(SharedOnHub, PreTrainedModel):  # pyright: ignore[reportIncompatibleVariableOverride]
    """Loads what a configuration names, and all of it.

    `from_pretrained` of an abstract class returns the subclass that the configuration is registered
    with (`AutoModel.register`); that of a subclass refuses incomplete or damaged weights.
    """

    config_class = StrictConfig
    is_abstract: ClassVar[bool] = False
    # Whether every parameter that learns has a gradient in each update: DDP then need not search.
    uses_all_parameters: ClassVar[bool] = False

    def __init_subclass__(cls, abstract: bool = False, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        cls.is_abstract = abstract

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, config=None, **kwargs) -> Any:
        """Load from a folder or a Hub repository; see `PreTrainedModel.from_pretrained`.

        Raises:
            ValueError: If the folder holds something else, or weights are missing, left over or not
                finite.
        """
        folder = pretrained_model_name_or_path
        if cls.is_abstract:
            hub = {key: kwargs[key] for key in (*_HUB_KEYS, "trust_remote_code") if key in kwargs}
            if config is None:
                base: Any = cls.config_class
                config = load_config(folder, base, **hub)
            if type(config) not in MODEL_MAPPING:  # remote code
                return AutoModel.from_pretrained(folder, *args, config=config, **kwargs)
            model_class: Any = MODEL_MAPPING[type(config)]
            return model_class.from_pretrained(folder, *args, config=config, **kwargs)
        wants_info = kwargs.pop("output_loading_info", False)
        may_lack = kwargs.pop("may_lack", frozenset())
        try:
            loaded: Any = super().from_pretrained(
                folder, *args, config=config, output_loading_info=True, **kwargs
            )
        except SafetensorError as error:  # does not say which
            raise ValueError(
                f"The weights in {str(folder)!r} must be whole safetensors files, got a damaged "
                f"one ({error}). A full disk or a cut download may have done it: fetch or save it "
                "again."
            ) from error
        model, info = loaded
        wrong = {k: sorted({*info[k]} - may_lack) for k in ("missing_keys", "unexpected_keys")}
        wrong = {k: names for k, names in wrong.items() if names}
        if wrong:
            raise ValueError(
                f"The weights in {str(folder)!r} must be those of a `{cls.__name__}` of its "
                f"configuration, got {wrong}. Transformers would go on with random numbers. Fetch "
                "or save the folder again."
            )
        for key, *_ in info["mismatched_keys"]:  # transformers leaves buffers without numbers
            module = model.get_submodule(key.rpartition(".")[0])
            if isinstance(module, LatentNorm):
                module.reset()
        check_weights(model, str(folder))
        model.freeze_parts()
        return (model, info) if wants_info else model

    def freeze_parts(self) -> None:
        """Stop training what never learns: called again once loading has made all of it learn."""

    def save_pretrained(self, save_directory, *args, push_to_hub=False, **kwargs) -> None:
        """Write configuration and weights; see `PreTrainedModel.save_pretrained`."""
        if push_to_hub:
            return self._save_and_push(save_directory, kwargs)
        return super().save_pretrained(save_directory, *args, **kwargs)

    def get_input_embeddings(self) -> Any:
        """None: words come embedded. Accelerate asks when it shards a model."""
        return None


def check_weights(model: nn.Module, origin: str) -> None:
    """Refuse weights that are not finite.

    Raises:
        ValueError: Naming the first such tensor.
    """
    for name, tensor in model.state_dict().items():
        if tensor.device.type != "meta" and not tensor.isfinite().all():
            raise ValueError(
                f"Weights must be finite, got NaN or infinity in `{name}` of {origin!r}. Take an "
                "earlier checkpoint; a lower learning rate keeps training finite."
            )


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
            ValueError: If there are more than the policy can tell apart.
        """
        num_views = pixel_values.shape[1]
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
