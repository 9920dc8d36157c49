# SPDX-License-Identifier: Apache-2.0
"""How policies, world models and pairs are loaded: what a configuration names, and all of it."""

import re
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedModel
from transformers.utils.hub import cached_file

from .configuration_lawm import StrictConfig, find_config_class
from .modeling_outputs import LatentNorm
from .sharing_lawm import HUB_KEYS, SharedOnHub, not_found


def load_config(folder: str | Path, base: type[StrictConfig], **hub: Any) -> Any:
    """The configuration in a folder or Hub repository, of whatever class it names.

    Args:
        folder: Where `config.json` is.
        base: What it must be a kind of.
        **hub: `subfolder`, `revision` and so on; `trust_remote_code` to run the folder's code.

    Raises:
        ValueError: If it is of another kind, or of a package that has to be imported first.
    """
    told = {k: hub[k] for k in HUB_KEYS if k in hub}
    try:
        if Path(folder).is_file():
            raise FileNotFoundError("it has folders only.")
        raw, _ = StrictConfig.get_config_dict(folder, **told)
        if not isinstance(raw, dict):
            raise TypeError(f"a {type(raw).__name__}")
        if not isinstance(raw.get("model_type", ""), str):
            raise TypeError(f"`model_type` is a {type(raw['model_type']).__name__}")
        if not raw:  # as transformers reads a folder without one
            is_part = told.get("subfolder") == "policy"
            raise FileNotFoundError(
                "no policy/config.json, which a pretraining run has and a finetuned policy has not."
                if is_part
                else "no config.json."
            )
    except OSError as error:
        raise not_found(folder, error) from error
    except (TypeError, AttributeError, RecursionError) as error:  # as some transformers read a list
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
    except (StrictDataclassError, AttributeError) as error:  # says not where; of a `dtype`
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
            hub = {key: kwargs[key] for key in (*HUB_KEYS, "trust_remote_code") if key in kwargs}
            if config is None:
                base: Any = cls.config_class
                config = load_config(folder, base, **hub)
                names = config.own_fields() & kwargs.keys()
                if own := {name: kwargs.pop(name) for name in names}:
                    config = load_config(folder, base, **hub, **own)
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
        except OSError as error:
            if "no file named" not in str(error):
                raise
            raise not_found(folder, error) from error
        except TypeError as error:  # of the constructor, which gets what is left
            found = re.search(r"got an unexpected keyword argument '(\w+)'", str(error))
            if not found or found[1] not in kwargs:
                raise
            config_class: Any = cls.config_class
            raise ValueError(config_class.no_option(found[1])) from error
        except SafetensorError as error:  # does not say which
            raise ValueError(
                f"The weights in {str(folder)!r} must be whole safetensors files, got a damaged "
                f"one ({error}). A full disk or a cut download may have done it: fetch or save it "
                "again."
            ) from error
        except RuntimeError as error:  # its report says which; this, where
            if "ignore_mismatched_sizes" not in str(error):
                raise
            raise ValueError(
                f"The weights in {str(folder)!r} must be of the sizes that the configuration says, "
                "got others (the report above lists them). Leave options of the sizes as they are, "
                "or fetch or save the folder again."
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
        check_saved_types(model, folder, {k: kwargs[k] for k in HUB_KEYS if k in kwargs})
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


def check_saved_types(model: nn.Module, folder: str | Path, hub: dict[str, Any]) -> None:
    """Refuse weights that were saved as whole numbers: those of a fraction are zeros by now.

    Raises:
        ValueError: Naming the first such tensor.
    """
    file = cached_file(
        folder,
        "model.safetensors",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **hub,
    )
    if file is None:  # in shards
        return
    names = {name for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    with safe_open(file, "pt") as saved:
        for name in names.intersection(saved.keys()):
            if (kind := saved.get_slice(name).get_dtype())[0] not in "FB" or kind == "BOOL":
                raise ValueError(
                    f"Weights must be saved as floating-point numbers, got {kind} in `{name}` of "
                    f"{str(folder)!r}, which rounds them to zero. Save the model again."
                )
