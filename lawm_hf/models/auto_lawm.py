# SPDX-License-Identifier: Apache-2.0
"""Policies, world models and objectives by name: transformers' Auto classes are the registry.

A name is a registered `model_type` (the `lawm_` of ours may be left out), or a folder or Hub
repository, whose weights are then taken too. Whoever registers a configuration and a model with
`AutoConfig` and `AutoModel` adds a name: on import of the package (`--import PACKAGE`), or through
an entry point of the group `lawm_hf` of its distribution.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, MODEL_MAPPING

from .configuration_lawm import (
    EXECUTION,
    LAWMPolicyConfig,
    LAWMWorldModelConfig,
    find_config_class,
    registered_names,
)
from .configuration_pretraining import LAWMPretrainingConfig
from .loading_lawm import load_config
from .modeling_lawm import LAWMPolicy, LAWMWorldModel
from .modeling_pretraining import LAWMForPretraining


def policy_config(name: str, preset: str = "default", **options: Any) -> LAWMPolicyConfig:
    """The configuration of a policy by name.

    Args:
        name: A registered `model_type`, or a folder or Hub repository.
        preset: One of the presets of that type; ignored for a folder.
        **options: Fields to change.
    """
    with _flag("policy_type"):
        return _config(name, LAWMPolicyConfig, preset, options)


def new_policy(name: str, preset: str = "default", **options: Any) -> LAWMPolicy:
    """A policy by name, freshly initialised unless the name is a folder's or repository's."""
    return _model(name, LAWMPolicy, policy_config(name, preset, **options))


def new_world_model(name: str, preset: str = "tiny", **options: Any) -> LAWMWorldModel:
    """A world model by name, in the same way."""
    with _flag("world_model_type"):
        config = _config(name, LAWMWorldModelConfig, preset, options)
    return _model(name, LAWMWorldModel, config)


def new_objective(
    name: str, policy: LAWMPolicy, world_model: LAWMWorldModel, **options: Any
) -> LAWMForPretraining:
    """Joint pretraining of a pair: the paper's (`"latent"`), or a registered `model_type`."""
    name = "lawm_pretraining" if name == "latent" else name
    with _flag("objective"):
        model_class: Any = MODEL_MAPPING[find_config_class(name, LAWMPretrainingConfig)]
    return model_class(policy, world_model, **options)


def is_address(name: str) -> bool:
    """Whether a name is a folder or a Hub repository rather than a `model_type`."""
    is_registered = any(known in CONFIG_MAPPING for known in registered_names(name))
    return not is_registered and ("/" in name or Path(name).is_dir())


def is_policy_type(name: str) -> bool:
    """Whether a name is a registered `model_type` of a policy."""
    try:
        find_config_class(name, LAWMPolicyConfig)
    except ValueError:
        return False
    return True


@contextmanager
def _flag(name: str) -> Iterator[None]:
    """Whose value is wrong, in front of why it is."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"`{name}`: {error}") from error


def _config(name: str, base: Any, preset: str, options: dict[str, Any]) -> Any:
    if not is_address(name):
        return find_config_class(name, base).from_preset(preset, **options)
    config = load_config(name, base)
    own = {k: v for k, v in config.to_dict().items() if k not in EXECUTION}
    return type(config)(**(own | options))


def _model(name: str, base: Any, config: Any) -> Any:
    if is_address(name):
        return base.from_pretrained(name, config=config)
    model_class: Any = MODEL_MAPPING[type(config)]
    return model_class(config)
