# SPDX-License-Identifier: Apache-2.0
"""What a finetuned policy takes over from pretraining: all of it, or for a control only a part."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from ..models import DreamerV3WorldModel, LAWMPolicy


def keep_part(policy: LAWMPolicy, part: str) -> LAWMPolicy:
    """A policy of which only a part is pretrained, the rest as in a new one.

    Args:
        policy: A pretrained policy.
        part: `"all"` (the policy as it is), `"vision"` (its vision encoder alone) or `"trunk"`
            (everything but that).

    Raises:
        ValueError: If there is no such part.
    """
    if part == "all":
        return policy
    if part not in ("vision", "trunk"):
        raise ValueError(f'`transfer` must be "all", "vision" or "trunk", got {part!r}.')
    config: Any = policy.config
    fresh, prefixes = type(policy)(config), policy.vision_parameter_prefixes
    policy.named_part("vision_parameter_prefixes")  # it must name something
    kept = {
        name: tensor
        for name, tensor in policy.state_dict().items()
        if name.startswith(prefixes) == (part == "vision")
    }
    fresh.load_state_dict(kept, strict=False)
    return fresh


def copy_frame_encoder(policy: LAWMPolicy, pretraining: str | Path) -> None:
    """Give a policy's strided stem the weights of a world model's first two stages, in place.

    Its views must then be centred as the world model's frames are, 0.5 off [0, 1]. They may be
    larger: what the kernels see of an object is then smaller than in their training.

    Args:
        policy: A policy with `stem="strided"`.
        pretraining: Folder or Hub repository that `recipes/pretrain.py` has written.

    Raises:
        ValueError: If the stem is another, or of another width, or the world model sees several
            views at once.
    """
    world_model = DreamerV3WorldModel.from_pretrained(pretraining, subfolder="world_model")
    stem, channels = getattr(policy.config, "stem", None), 2 * world_model.config.depth
    if stem != "strided" or policy.config.encoder_channels[0] != channels:
        raise ValueError(
            f'The frame encoder in {str(pretraining)!r} fits a policy with `stem` "strided" and '
            f"{channels} as the first of `encoder_channels`, got {stem!r} and "
            f"{getattr(policy.config, 'encoder_channels', None)}. Set both in `policy_config`."
        )
    if world_model.config.num_views > 1:
        raise ValueError(
            "A policy sees its views one by one: the frame encoder must be of a world model of one "
            f"view, got {world_model.config.num_views} in {str(pretraining)!r}. Pretrain with one."
        )
    policy.get_submodule("vision.stem").load_state_dict(world_model.encoder.layers[:6].state_dict())


def transfer_report(policy: LAWMPolicy, pretraining: str | Path) -> str:
    """A line that counts, for each module of a policy, the tensors equal to the pretrained ones.

    It compares numbers, not intentions: what had to start afresh because a robot's sizes are
    others shows, too.
    """
    source = LAWMPolicy.from_pretrained(pretraining, subfolder="policy").state_dict()
    total, came = Counter(), Counter()
    for name, tensor in policy.state_dict().items():
        module = name.split(".")[0]
        total[module] += 1
        came[module] += name in source and torch.equal(tensor, source[name])
    counts = ", ".join(f"{module} {came[module]} of {total[module]}" for module in total)
    return f"Tensors from {pretraining}: {counts}."
