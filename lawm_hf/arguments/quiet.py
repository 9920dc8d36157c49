# SPDX-License-Identifier: Apache-2.0
"""Libraries that keep to themselves what a user of a command cannot act on.

Their errors are exceptions, and ours are told by `lawm_hf`'s own loggers. `--verbose` or the
environment variable `LAWM_VERBOSE=1` let them talk.
"""

import logging
import os
import sys
import warnings

from ..writing.text import get_logger

_LIBRARIES = (
    *("torch", "torchvision", "transformers", "diffusers", "datasets", "accelerate", "evaluate"),
    *("huggingface_hub", "lerobot", "gymnasium", "glfw", "robosuite", "libero", "wandb", "trackio"),
)
_CHATTY = ("httpx", "httpcore", "urllib3", "filelock", "fsspec", "matplotlib")


def quiet_libraries() -> None:
    """Ask libraries for errors only, here and in the processes that this one starts."""
    os.environ["LAWM_QUIET"] = "1"  # `lawm_hf.models` hides the bars of small files.
    for name in ("TRANSFORMERS", "DIFFUSERS", "DATASETS", "HF_HUB"):
        os.environ.setdefault(f"{name}_VERBOSITY", "error")
    for name in _CHATTY:
        get_logger(name).setLevel(logging.WARNING)
    if not sys.warnoptions:
        for name in _LIBRARIES:
            warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")
    if models := sys.modules.get("lawm_hf.models"):
        models.hide_bars()
