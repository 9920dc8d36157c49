# SPDX-License-Identifier: Apache-2.0
"""A fresh policy by name."""

import importlib
from typing import Any

from ..models import BakuConfig, BakuPolicy, DiffusionPolicy, DiffusionPolicyConfig, LAWMPolicy


def new_policy(policy_type: str, preset: str, **options: Any) -> LAWMPolicy:
    """A freshly initialised policy.

    Args:
        policy_type: `"baku"`, `"diffusion"`, or `"lerobot:act"`.
        preset: `"tabletop"` or `"default"` (the paper's sizes).
        **options: Fields of its configuration, over the preset's.

    Raises:
        ValueError: If there is no such policy.
    """
    if policy_type == "baku":
        return BakuPolicy(BakuConfig.from_preset(preset, **options))
    if policy_type == "diffusion":
        return DiffusionPolicy(DiffusionPolicyConfig.from_preset(preset, **options))
    if policy_type == "lerobot:act":
        act = importlib.import_module("lawm_hf.lerobot.act")  # only this needs LeRobot
        return act.LeRobotActPolicy(act.LeRobotActConfig.from_preset(preset, **options))
    raise ValueError(
        f'`policy_type` must be "baku", "diffusion" or "lerobot:act", got {policy_type!r}.'
    )
