# SPDX-License-Identifier: Apache-2.0
"""A small world model and a batch for it."""

import torch
from torch import Tensor

from lawm_hf.models.configuration_dreamer import PAPER_FORM, DreamerV3Config
from lawm_hf.models.modeling_dreamer import DreamerV3WorldModel

B, N, A, S = 3, 4, 2, 4
OBJECTIVES = ("posterior", "imagination")


def build(variant: str = "default", seed: int = 0, **options) -> DreamerV3WorldModel:
    """A small world model in training mode; the paper's objective unless told otherwise."""
    sizes = {"deter_size": 32, "hidden_size": 16, "num_categoricals": S, "num_classes": 8}
    sizes |= {"depth": 4, "image_size": 32, "action_size": A, "num_decoded_steps": None}
    sizes |= PAPER_FORM | {"num_blocks": 8 if variant == "default" else 1}
    torch.manual_seed(seed)
    config = DreamerV3Config.from_preset("tiny", variant, **(sizes | options))
    return DreamerV3WorldModel(config).train()


def batch(seed: int = 0, image_size: int = 32) -> dict[str, Tensor]:
    """Random frames and actions, with the noise that makes the loss a function of them."""
    generator = torch.Generator().manual_seed(seed)
    shape = (B, N + 1, 3, image_size, image_size)
    return {
        "frames": torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
        "actions": torch.rand(B, N, A, generator=generator) * 2 - 1,
        "noise": torch.rand(B, N + 1, S, generator=generator),
    }


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    """Gradients by name, whole ones of sharded parameters."""
    named = {n.removeprefix("module."): p.grad for n, p in model.named_parameters()}
    assert all(g is not None for g in named.values())
    return {n: getattr(g, "full_tensor", lambda g=g: g)() for n, g in named.items()}
