# SPDX-License-Identifier: Apache-2.0
"""Latent action pretraining through world modeling, native to the Hugging Face stack.

Public names load on first use, so that `import lawm_hf` stays light. Using any model also
registers all of them with transformers' Auto classes (`import lawm_hf.models` does so by itself).
"""

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import moved

# OpenMP's threads spin for milliseconds while they wait: on a machine that has more to do,
# they take the cores from the threads that they wait for (docs/performance.md). Read by libgomp as
# it is loaded, with torch: therefore the recipes import this package first.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0.dev0"

# A small checkpoint that comes with the package, made by `recipes/small.py`: a pretrained pair, and
# the policy finetuned from it. `LAWMPolicy.from_pretrained(lawm_hf.TABLETOP_POLICY)`.
TABLETOP = str(Path(__file__).parent / "assets" / "tabletop" / "pretrain")
TABLETOP_POLICY = str(Path(__file__).parent / "assets" / "tabletop" / "finetune")

if TYPE_CHECKING:
    from .models import (
        BakuConfig,
        BakuPolicy,
        DiffusionPolicy,
        DiffusionPolicyConfig,
        DreamerV3Config,
        DreamerV3WorldModel,
        FeatureWorldConfig,
        FeatureWorldModel,
        FrameDiffusionConfig,
        FrameDiffusionWorldModel,
        LAWMForPretraining,
        LawmForPretraining,
        LAWMPolicy,
        LAWMPolicyConfig,
        LAWMPretrainingConfig,
        LAWMProcessor,
        LAWMWorldModel,
        LAWMWorldModelConfig,
        VlmPolicy,
        VlmPolicyConfig,
    )

__all__ = [
    "BakuConfig",
    "BakuPolicy",
    "DiffusionPolicy",
    "DiffusionPolicyConfig",
    "DreamerV3Config",
    "DreamerV3WorldModel",
    "FeatureWorldConfig",
    "FeatureWorldModel",
    "FrameDiffusionConfig",
    "FrameDiffusionWorldModel",
    "LAWMForPretraining",
    "LAWMPolicy",
    "LAWMPolicyConfig",
    "LAWMPretrainingConfig",
    "LAWMProcessor",
    "LAWMWorldModel",
    "LAWMWorldModelConfig",
    "LawmForPretraining",
    "VlmPolicy",
    "VlmPolicyConfig",
]


if not any(type(finder).__name__ == "MovedModules" for finder in sys.meta_path):
    sys.meta_path.append(moved.MovedModules())


def __getattr__(name: str):
    if name in __all__:
        return getattr(importlib.import_module(".models", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
