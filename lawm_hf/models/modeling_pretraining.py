# SPDX-License-Identifier: Apache-2.0
"""LAWM itself: joint pretraining of a policy and a world model on video without action labels.

Paper: Latent Action Pretraining Through World Modeling (https://arxiv.org/abs/2509.18428).
"""

from pathlib import Path
from typing import Any, Self

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import MODEL_MAPPING, AutoModel
from transformers.utils.hub import cached_file, extract_commit_hash

from .configuration_lawm import StrictConfig
from .configuration_pretraining import LAWMPretrainingConfig
from .loading_lawm import LAWMModel, load_config
from .modeling_lawm import LAWMPolicy, LAWMWorldModel
from .modeling_outputs import PretrainingOutput

_OWN_WEIGHTS = "objective.safetensors"


class LAWMForPretraining(LAWMModel):
    """The paper in one forward: latent actions must let the world model predict the next frames.

    Any pair will do whose policy returns a differentiable chunk without targets and whose world
    model takes `(frames, actions, frame_is_pad)`. A subclass is another *objective*: it overrides
    `forward`, may add parameters and options, and registers itself with transformers' Auto classes.

    Args:
        policy: The policy.
        world_model: The world model.
        cut_gradient: See `LAWMPretrainingConfig`.
        **options: Further fields of the configuration.
    """

    config_class = LAWMPretrainingConfig
    config: LAWMPretrainingConfig
    main_input_name = "frames"
    processor_folder = "processor"
    supports_gradient_checkpointing = True  # of the parts that do

    def __init__(
        self,
        policy: LAWMPolicy,
        world_model: LAWMWorldModel,
        cut_gradient: bool = False,
        **options: Any,
    ):
        for name in ("chunk_size", "action_size"):
            ours, theirs = getattr(policy.config, name), getattr(world_model.config, name, None)
            if theirs is not None and ours != theirs:
                raise ValueError(
                    f"Policy and world model must agree on `{name}`, got {ours} and {theirs}. "
                    "Build both configurations with the same value."
                )
        parts = {"policy": policy.config, "world_model": world_model.config}
        config: Any = self.config_class
        super().__init__(config(**parts, cut_gradient=cut_gradient, **options))
        # The models own their configurations: the head's reset, say, changes the policy's.
        self.config.policy, self.config.world_model = policy.config, world_model.config
        self.policy, self.world_model = policy, world_model
        # Sharding gathers the weights of one at a time; of a part where it names some.
        parts = {type(policy).__name__, type(world_model).__name__}
        self._no_split_modules = parts.union(
            policy._no_split_modules or (), world_model._no_split_modules or ()
        )

    def forward(
        self,
        frames: Tensor,
        frame_is_pad: Tensor | None = None,
        frame_states: Tensor | None = None,
        **observation: Tensor,
    ) -> PretrainingOutput:
        """Predict `x_{t+1..t+N}` from `x_t` and the policy's latent actions.

        Latent action `k` leads from frame `k` to frame `k+1`.

        Args:
            frames: `x_t .. x_{t+N}`, `(B, N+1, C, H, W)`, uint8 or float in [0, 1].
            frame_is_pad: `(B, N+1)`; padded frames add nothing to the loss.
            frame_states: The robot's states beside the frames, `(B, N+1, P)`, for a world model
                that predicts them. The policy does not see them.
            **observation: Inputs of the policy at time `t`.
        """
        latents = self.policy(**observation).actions  # (B, N, A)
        if self.policy.config.latent_norm == "batch" and not self.policy.latent_norm.was_used:
            raise ValueError(
                f"`{type(self.policy).__name__}.forward` must end with `self.bound(...)` to obey "
                '`latent_norm="batch"`, which it ignores. Call it, or set `latent_norm="none"`.'
            )
        actions = latents.detach() if self.config.cut_gradient else latents
        states = {} if frame_states is None else {"frame_states": frame_states}
        prediction = self.world_model(
            frames=frames, actions=actions, frame_is_pad=frame_is_pad, **states
        )
        return PretrainingOutput(
            loss=prediction.loss,
            latents=latents,
            reconstruction_loss=prediction.reconstruction_loss,
            kl_loss=prediction.kl_loss,
            state_loss=prediction.state_loss,
        )

    def save_pretrained(
        self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write `policy/` and `world_model/` below a folder, and beside them what is the pair's."""
        folder = Path(save_directory)
        if push_to_hub:
            self._save_and_push(folder, kwargs)
            return
        self.policy.save_pretrained(folder / "policy", **kwargs)
        self.world_model.save_pretrained(folder / "world_model", **kwargs)
        self.config.architectures = [type(self).__name__]
        self.config.save_pretrained(folder)
        if own := self._own_weights():
            save_file({k: v.contiguous() for k, v in own.items()}, folder / _OWN_WEIGHTS)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, config=None, **kwargs) -> Any:
        """Load a run of pretraining: a folder or a Hub repository, older ones too.

        Args:
            pretrained_model_name_or_path: What `save_pretrained` or `recipes/pretrain.py` wrote.
            *args: Nothing.
            config: Of a known objective; read from the folder by default.
            **kwargs: `revision`, `subfolder`, `cache_dir` and so on, as of
                `PreTrainedModel.from_pretrained`.
        """
        folder = pretrained_model_name_or_path
        inside = kwargs.pop("subfolder", "")
        if config is None:
            # Older runs wrote no configuration of the pair.
            found = cached_file(
                folder,
                "config.json",
                subfolder=inside,
                _raise_exceptions_for_missing_entries=False,
                **kwargs,
            )
            if found:
                config = load_config(folder, LAWMPretrainingConfig, subfolder=inside, **kwargs)
                for name in own_options(config).keys() & kwargs.keys():
                    setattr(config, name, kwargs.pop(name))
            # All parts of one commit, even if somebody pushes meanwhile.
            if commit := extract_commit_hash(found, None):
                kwargs["revision"] = commit
        parts = {name: f"{inside}/{name}".strip("/") for name in ("policy", "world_model")}
        policy = LAWMPolicy.from_pretrained(folder, subfolder=parts["policy"], **kwargs)
        world_model = LAWMWorldModel.from_pretrained(
            folder, subfolder=parts["world_model"], **kwargs
        )
        if config is None:
            return cls(policy, world_model).eval()
        model_class: Any = MODEL_MAPPING[type(config)]
        model = model_class(policy, world_model, **own_options(config))
        if own := model._own_weights():
            file = cached_file(folder, _OWN_WEIGHTS, subfolder=inside, **kwargs)
            saved = load_file(str(file))
            if saved.keys() != own.keys():
                raise ValueError(
                    f"{_OWN_WEIGHTS} in {str(folder)!r} must hold {sorted(own)}, got "
                    f"{sorted(saved)}. Fetch or save the folder again."
                )
            model.load_state_dict(saved, strict=False)
        return model.eval()

    @classmethod
    def _from_config(cls, config: LAWMPretrainingConfig, **kwargs: Any) -> Self:
        """What `AutoModel.from_config` calls: fresh weights."""
        parts: Any = [AutoModel.from_config(c) for c in (config.policy, config.world_model)]
        return cls(*parts, **own_options(config))

    def _own_weights(self) -> dict[str, Tensor]:
        """Of the state dict what belongs to neither model: an objective's own parameters."""
        models = ("policy.", "world_model.")
        return {k: v for k, v in self.state_dict().items() if not k.startswith(models)}


def own_options(config: LAWMPretrainingConfig) -> dict[str, Any]:
    """The options of a configuration that tie the pair, for the constructor."""
    inherited = {*StrictConfig().to_dict(), "policy", "world_model"}
    return {k: v for k, v in config.to_dict().items() if k not in inherited and k[0] != "_"}


AutoModel.register(LAWMPretrainingConfig, LAWMForPretraining, exist_ok=True)
LawmForPretraining = LAWMForPretraining  # its former name
