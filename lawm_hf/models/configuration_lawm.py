# SPDX-License-Identifier: Apache-2.0
"""What every configuration shares: strict keywords, presets, and the sizes that a pair needs."""

import difflib
import logging
from dataclasses import fields
from typing import Any, ClassVar, Literal, Self

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, PreTrainedConfig

logger = logging.getLogger(__name__)

Aggregation = Literal["uniform", "exponential", "none"]  # of overlapping chunks
# How chunks are executed: right for the weights and the robot for which it was learned, no others.
EXECUTION = frozenset({"aggregation", "n_action_steps"})

# Keys that are not fields of ours but may stand in a `config.json` all the same: what transformers
# adds when it saves or loads, and what LeRobot adds to a folder that both libraries read.
_TRANSFORMERS_KEYS = {
    *("model_type", "auto_map", "name_or_path", "torch_dtype", "num_labels", "output_attentions"),
    *("attn_implementation", "experts_implementation", "_commit_hash", "_name_or_path"),
    *("_attn_implementation_internal", "_experts_implementation_internal", "_attn_implementation"),
}
_LEROBOT_KEYS = {
    *("type", "n_obs_steps", "input_features", "output_features", "normalization_mapping"),
    *("device", "use_amp", "use_peft", "push_to_hub", "repo_id", "private", "tags", "license"),
    *("pretrained_path", "pretrained_revision", "ema_decay"),
    *("policy_type", "policy_preset", "pretrained_latent", "text_encoder", "augment"),
    *("views", "resize", "compile_model"),
    *("optimizer_lr", "optimizer_vision_lr", "optimizer_weight_decay"),
    *("optimizer_grad_clip_norm", "scheduler_warmup_steps"),
}
# Where the distribution that defines a configuration is noted, for whoever loads it without.
_PACKAGE = "defined_in"


class StrictConfig(PreTrainedConfig):
    """A configuration that rejects unknown keywords.

    `PreTrainedConfig` silently keeps `chunk_sise=8` as an attribute; here it is an error with a
    suggestion. Options that had another name stand in `attribute_map`, those that are gone in
    `retired_options`.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {"default": {}}
    retired_options: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self, **kwargs):
        kwargs = {k: v for k, v in kwargs.items() if k not in {*self.retired_options, _PACKAGE}}
        known = {f.name for f in fields(self)}
        unknown = set(kwargs) - known - _TRANSFORMERS_KEYS - _LEROBOT_KEYS - set(self.attribute_map)
        if unknown:
            raise ValueError(self.no_option(sorted(unknown)[0]))
        super().__post_init__(**kwargs)

    @classmethod
    def own_fields(cls) -> set[str]:
        """Names of its options, without those of every configuration."""
        return {f.name for f in fields(cls)} - {f.name for f in fields(PreTrainedConfig)}

    @classmethod
    def no_option(cls, name: str) -> str:
        """What to say of an option that does not exist."""
        known = sorted(cls.own_fields())
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean `{close[0]}`?" if close else f"Known: {', '.join(known)}."
        return f"`{cls.__name__}` has no option `{name}`. {hint}"

    @classmethod
    def from_dict(cls, config_dict, **kwargs) -> Any:
        """See `PreTrainedConfig`, which would set options unchecked and drop misspelled ones."""
        own = {name: kwargs.pop(name) for name in cls.own_fields() & kwargs.keys()}
        if not kwargs.get("return_unused_kwargs"):
            for name in kwargs:
                if difflib.get_close_matches(name, cls.own_fields(), n=1, cutoff=0.8):
                    raise ValueError(cls.no_option(name))
        return super().from_dict(config_dict | own, **kwargs)

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> Self:
        """Make a named configuration.

        Args:
            name: One of `presets`.
            **overrides: Options to change.

        Raises:
            ValueError: If there is no such preset.
        """
        if name not in cls.presets:
            raise ValueError(f"`{cls.__name__}` presets are {sorted(cls.presets)}, got {name!r}.")
        return cls(**{**cls.presets[name], **overrides})

    def to_dict(self) -> dict[str, Any]:
        """See `PreTrainedConfig`; a class from elsewhere also notes which package defines it."""
        package = type(self).__module__.partition(".")[0]
        is_ours = package in ("lawm_hf", "transformers_modules", "__main__")
        return super().to_dict() | ({} if is_ours else {_PACKAGE: package})


@strict
class LAWMPolicyConfig(StrictConfig):
    """Sizes of the observation and of the action chunk, common to all policies.

    Args:
        chunk_size: Actions `N` in one chunk.
        action_size: Numbers `A` in one action, latent or real (paper §IV: 7).
        state_size: Numbers `P` of robot proprioception; 0 for a policy that never sees any.
        task_embed_size: Width `L` of the instruction embedding that the processor computes.
        num_task_tokens: Token ids `T` of the instruction, for a policy that reads words by itself;
            0 for one that reads their embedding.
        image_size: Side of the square views, in pixels, at least 8.
        num_views: Most views the policy can tell apart; fewer may be given.
        latent_norm: `"batch"` standardises the last layer's output over the batch before the tanh,
            so that latent actions can neither saturate nor collapse to a constant. Part of the
            action head: dropped when the head is re-initialised for finetuning.
        aggregation: How overlapping chunks become one action, `"none"`, `"uniform"` or
            `"exponential"`; see `lawm_hf.evaluation.ChunkAggregator`.
        n_action_steps: Steps between two calls of the policy, at most `chunk_size`. Which of these
            two is right depends on the robot: `recipes/evaluate.py --tune_execution true` finds
            out.
    """

    presets: ClassVar = {"default": {}, "tabletop": {"image_size": 64}}

    chunk_size: int = 10
    action_size: int = 7
    state_size: int = 8
    task_embed_size: int = 512
    num_task_tokens: int = 0
    image_size: int = 128
    num_views: int = 2
    latent_norm: Literal["batch", "none"] = "none"
    aggregation: Aggregation = "none"
    n_action_steps: int = 1

    def processor_options(self) -> dict[str, Any]:
        """What a new `LAWMProcessor` for this policy takes besides sizes and text encoder."""
        return {}

    def validate_sizes(self):
        """Sizes are positive (the state may be absent)."""
        for name in ("chunk_size", "action_size", "task_embed_size", "image_size", "num_views"):
            least = 8 if name == "image_size" else 1  # no convolution fits into less
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")
        if self.state_size < 0:
            raise ValueError(f"`state_size` must not be negative, got {self.state_size}.")

    def validate_execution(self):
        """A chunk lasts until the next one comes."""
        if not 1 <= self.n_action_steps <= self.chunk_size:
            raise ValueError(
                f"`n_action_steps` must be from 1 to `chunk_size` = {self.chunk_size}, got "
                f"{self.n_action_steps}."
            )


@strict
class LAWMWorldModelConfig(StrictConfig):
    """Sizes of frames and actions, common to all world models.

    Args:
        image_size: Side of the square frames, in pixels.
        action_size: Numbers `A` in one (latent) action.
    """

    presets: ClassVar = {"default": {}, "tiny": {"image_size": 32}}
    # One view and no state of the robot, unless a subclass makes options of them.
    num_views: ClassVar[int] = 1
    state_size: ClassVar[int] = 0

    image_size: int = 128
    action_size: int = 7


def load_plugins() -> dict[str, str]:
    """See `lawm_hf.plugins`; as remote code of the Hub, without the package, there are none."""
    try:
        from lawm_hf.plugins import load_plugins as load
    except ImportError:
        return {}
    return load()


def registered_names(model_type: str) -> tuple[str, str]:
    """What a `model_type` may be registered as: as it stands, or as one of ours."""
    return model_type, f"lawm_{model_type.replace(':', '_')}"


def find_config_class(model_type: str, base: type[StrictConfig], package: str = "") -> type:
    """The configuration registered with transformers' `AutoConfig` under a `model_type`.

    Args:
        model_type: Its name; `lawm_` may be left out, and `:` stands for `_`.
        base: What it must be a kind of.
        package: The package that defines it, if known, for the error.

    Raises:
        ValueError: If there is none of that kind, naming those there are and the remedy.
    """
    names = registered_names(model_type)
    failed: dict[str, str] = {}
    for attempt in range(2):
        for name in names:
            # Its `get` does not know what `AutoConfig.register` added.
            if name in CONFIG_MAPPING and issubclass(CONFIG_MAPPING[name], base):
                return CONFIG_MAPPING[name]
        if not attempt:
            failed = load_plugins()
    known = sorted(found.model_type for found in {base, *subclasses(base)} if found.model_type)
    close = difflib.get_close_matches(names[1], known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    origin = f"`{package}`" if package else "another package"
    broken = "".join(f" The plug-in {name} is broken: {why}." for name, why in failed.items())
    raise ValueError(
        f"`model_type` must be one of {', '.join(known)}, got {model_type!r}.{hint} If it comes "
        f"from {origin}, import that first: `--import {package or 'PACKAGE'}`, or in Python; in "
        f"LeRobot's commands `--my.discover_packages_path={package or 'PACKAGE'}`." + broken
    )


def subclasses(base: type) -> set[Any]:
    """All that are defined so far."""
    found = set(base.__subclasses__())
    return found.union(*(subclasses(child) for child in found))
