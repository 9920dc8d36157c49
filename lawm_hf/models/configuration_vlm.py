# SPDX-License-Identifier: Apache-2.0
"""Configuration of the vision-language policy."""

import copy
import json
from pathlib import Path
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig
from transformers.utils.hub import cached_file

from .configuration_lawm import LAWMPolicyConfig

# A SmolVLM in small, for random weights: 64 patches of a picture become 16 tokens.
_TINY: dict[str, Any] = {
    "model_type": "smolvlm",
    "scale_factor": 2,
    "image_token_id": 0,
    "pad_token_id": None,
    "vision_config": {
        "image_size": 64,
        "patch_size": 8,
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 0.1,  # the default, 0.02, is for ten times this width
    },
    "text_config": {
        "model_type": "llama",
        "vocab_size": 2048,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.1,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    },
}
_PRESETS: dict[str, dict[str, Any]] = {
    # SmolVLA's backbone and as many of its layers as SmolVLA reads.
    "default": {
        "backbone": "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
        "num_layers": 16,
        "train_backbone": "lora",
        "num_task_tokens": 48,
        "image_size": 256,
        "hidden_size": 512,
        "num_expert_layers": 6,
        "num_heads": 8,
    },
    # The embedded tabletop on a laptop's CPU: without a `backbone`, a tiny one at random.
    "tabletop": {"image_size": 64},
}
# Those whose pictures have one size, so that views are a tensor; each is tried by a test.
_FAMILIES = ("smolvlm", "idefics3", "llava", "paligemma", "internvl")


@strict
class VlmPolicyConfig(LAWMPolicyConfig):
    """Sizes of a `VlmPolicy`.

    Args:
        backbone: Where a *new* policy takes the vision-language model from, its weights, its
            tokenizer and the normalisation of its pictures: the id or folder of an
            `AutoModelForImageTextToText`. Empty for random weights of `backbone_config`. Its
            weights are never read when a saved policy is loaded.
        backbone_config: The model's configuration as a dictionary; None for that of `backbone`, or
            for a tiny one.
        num_layers: Layers of the language model that are kept, from its input; None for all.
        train_backbone: Of the model's weights learn `"all"`, low-rank adapters beside all linear
            layers (`"lora"`, needs `peft`), or `"none"`.
        lora_rank: Rank of the adapters; they are scaled by 2.
        num_task_tokens: Tokens of an instruction, the longest one's.
        hidden_size: Width of the action expert.
        num_expert_layers: Layers of the action expert.
        num_heads: Attention heads of such a layer.
        image_mean: Of the pictures that the model was trained on; None for what `backbone` says.
        image_std: See `image_mean`.
    """

    model_type = "lawm_vlm"
    presets: ClassVar = _PRESETS

    num_task_tokens: int = 16
    backbone: str = ""
    backbone_config: dict[str, Any] | None = None
    num_layers: int | None = None
    train_backbone: Literal["all", "lora", "none"] = "all"
    lora_rank: int = 16
    hidden_size: int = 128
    num_expert_layers: int = 2
    num_heads: int = 4
    image_mean: list[float | int] | tuple[float | int, ...] | None = None
    image_std: list[float | int] | tuple[float | int, ...] | None = None

    def __post_init__(self, **kwargs):
        if self.backbone_config is None:
            self.backbone_config = self._read_backbone()
        if self.image_mean is None or self.image_std is None:
            self.image_mean, self.image_std = self._read_normalisation()
        super().__post_init__(**kwargs)

    def _read_backbone(self) -> dict[str, Any]:
        if not self.backbone:
            return copy.deepcopy(_TINY)
        config: Any = AutoConfig.from_pretrained(self.backbone)
        if self.num_layers is not None:
            text = config.get_text_config()
            text.num_hidden_layers = min(self.num_layers, text.num_hidden_layers)
            if getattr(text, "layer_types", None):
                text.layer_types = text.layer_types[: self.num_layers]
        return json.loads(config.to_json_string(use_diff=False))

    def _read_normalisation(self) -> tuple[list[float], list[float]]:
        """What the model's image processor says; [-1, 1], as of SigLIP, without one."""
        for name in ("preprocessor_config.json", "processor_config.json") if self.backbone else ():
            if file := cached_file(
                self.backbone, name, _raise_exceptions_for_missing_entries=False
            ):
                found = json.loads(Path(file).read_text())
                found = found.get("image_processor", found)
                if "image_mean" in found and "image_std" in found:
                    return found["image_mean"], found["image_std"]
        return [0.5] * 3, [0.5] * 3

    def to_backbone(self) -> Any:
        """The configuration of the vision-language model, as its own class."""
        assert self.backbone_config is not None, "set at initialisation"
        return CONFIG_MAPPING[self.backbone_config["model_type"]].from_dict(self.backbone_config)

    def processor_options(self) -> dict[str, Any]:
        """See `LAWMPolicyConfig`: the model's own tokens and pictures."""
        vocabulary = self.to_backbone().get_text_config().vocab_size
        return {
            "task_tokens": self.backbone or f"hashing:{vocabulary}",
            "num_task_tokens": self.num_task_tokens,
            "image_mean": self.image_mean,
            "image_std": self.image_std,
        }

    def validate_backbone(self):
        """It is of a family that takes pictures of one size, and an expert fits beside it."""
        family = (self.backbone_config or {}).get("model_type")
        if family not in _FAMILIES:
            raise ValueError(
                f"`backbone` must be a vision-language model of {', '.join(_FAMILIES)}, which take "
                f"pictures of one size, got {family!r}. Take one of these, or write a policy of "
                "your own (docs/extending.md)."
            )
        if self.num_heads < 1 or self.hidden_size % self.num_heads or self.num_expert_layers < 1:
            raise ValueError(
                "`hidden_size` must be a multiple of `num_heads`, and `num_expert_layers` at least "
                f"1, got {self.hidden_size}, {self.num_heads} and {self.num_expert_layers}."
            )
        for name in ("lora_rank", "num_task_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")


AutoConfig.register(VlmPolicyConfig.model_type, VlmPolicyConfig, exist_ok=True)
VlmPolicyConfig.register_for_auto_class()
