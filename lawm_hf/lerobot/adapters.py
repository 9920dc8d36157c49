# SPDX-License-Identifier: Apache-2.0
"""PEFT in LeRobot: which layers an adapter changes, and whose statistics it brings."""

from pathlib import Path
from typing import Any

from torch import nn

from ..models import LAWMPolicy, LAWMProcessor


def default_targets(policy: LAWMPolicy, prefix: str) -> dict[str, Any]:
    """What `--peft.method_type=LORA` adapts unless told otherwise.

    All linear layers and 1D convolutions; the last action layer learns whole, as it is another
    robot's. Not the projection inside `nn.MultiheadAttention`, which takes weights past an adapter.

    Args:
        policy: The one to adapt.
        prefix: Of its modules' names.
    """
    heads = policy.action_head_prefixes
    inside = tuple(f"{head}." for head in heads)
    layers = [
        prefix + name
        for name, module in policy.named_modules()
        if type(module) in (nn.Linear, nn.Conv1d) and not (name in heads or name.startswith(inside))
    ]
    return {"target_modules": layers, "modules_to_save": [prefix + head for head in heads]}


def find_processor(config: Any, folder: str, hub: dict[str, Any]) -> LAWMProcessor:
    """The processor of a policy, or of the adapter that is to be laid over it.

    Args:
        config: Read from the folder of the policy, or of the adapter.
        folder: The policy's folder or Hub repository.
        hub: Options of a Hub repository.
    """
    if config.use_peft and config.pretrained_path:
        # The policy's revision is not the adapter's.
        own = {k: v for k, v in hub.items() if k != "revision"}
        if config.pretrained_revision:
            own["revision"] = config.pretrained_revision
        return LAWMProcessor.from_pretrained(Path(config.pretrained_path).as_posix(), **own)
    return LAWMProcessor.from_pretrained(folder, **hub)
