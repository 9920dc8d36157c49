# SPDX-License-Identifier: Apache-2.0
"""What a policy in LeRobot starts from: nothing, a latent pretraining run, or a saved policy.

`--policy.path` goes on with a saved policy on its own robot; `--policy.policy_type=FOLDER` takes
its weights to another, with fresh layers where sizes differ.
"""

from dataclasses import fields
from typing import Any

import torch
from lerobot.utils.constants import OBS_STATE
from transformers import MODEL_MAPPING

from ..models import LAWMPolicy, LAWMPolicyConfig, LAWMProcessor
from ..models.auto_lawm import is_address
from ..models.loading_lawm import load_config
from .configuration_lawm import LeRobotLAWMConfig, option_names

_SIZES = ("action_size", "state_size", "num_views")


def check_sizes(config: LeRobotLAWMConfig, dataset_meta: Any, folder: str) -> None:
    """Refuse a robot of other sizes than those of a saved policy.

    Args:
        config: The saved one, with the output features of the data or environment at hand.
        dataset_meta: LeRobot's metadata of the data at hand, if any.
        folder: Whose policy it is.

    Raises:
        ValueError: With both sizes, and how to start from these weights nevertheless.
    """
    c: Any = config
    state = getattr(dataset_meta, "features", {}).get(OBS_STATE)
    action = config.action_feature
    wanted = {"action": c.action_size, "state": c.state_size}
    found = {
        "action": action.shape[0] if action else c.action_size,
        "state": state["shape"][0] if state and c.state_size else c.state_size,
    }
    if found != wanted:
        raise ValueError(
            f"A robot must have the sizes of the policy in {folder!r}, {wanted}, got {found}. Take "
            "its weights to this robot, with fresh layers where sizes differ: --policy.type=lawm "
            f"--policy.policy_type={folder} in place of --policy.path."
        )


def new_policy(config: LeRobotLAWMConfig) -> tuple[LAWMPolicy, LAWMProcessor]:
    """A fresh policy, or one with the weights of a folder and fresh layers for this robot."""
    options = config.to_transformers()
    if config.pretrained_latent:
        lawm = _from_pretraining(config.pretrained_latent, options)
        processor = LAWMProcessor.from_pretrained(config.pretrained_latent, subfolder="processor")
        return lawm, processor
    if is_address(config.policy_type):
        lawm = _for_another_robot(config.policy_type, options)
        return lawm, LAWMProcessor.from_pretrained(config.policy_type)
    policy_class: Any = MODEL_MAPPING[type(options)]
    processor = LAWMProcessor(
        image_size=options.image_size,
        text_encoder=config.text_encoder,
        task_embed_size=options.task_embed_size,
        **options.processor_options(),
    )
    return policy_class(options), processor


def _from_pretraining(folder: str, options: LAWMPolicyConfig) -> LAWMPolicy:
    """The policy of a pretraining run for this robot, with options that leave its weights alone."""
    saved = load_config(folder, LAWMPolicyConfig, subfolder="policy")
    named = {f.name for f in fields(type(options))} & option_names() - {"latent_norm"}
    changed = {k for k in named if getattr(saved, k) != getattr(options, k)}
    saved.update({k: getattr(options, k) for k in _SIZES})
    if _shapes(saved) != _shapes(options):
        raise ValueError(
            "A pretraining run must keep the shapes of its weights, got other "
            f"{sorted(changed - {*_SIZES})} than in {folder!r}. Leave out what changes them, or "
            "--policy.pretrained_latent."
        )
    told = {k: getattr(options, k) for k in changed}
    return LAWMPolicy.from_latent_pretraining(folder, **told)


def _for_another_robot(folder: str, options: LAWMPolicyConfig) -> LAWMPolicy:
    """A saved policy; its layers are fresh where the robot's sizes, and only those, ask for it."""
    saved = load_config(folder, LAWMPolicyConfig)
    sizes = {k: getattr(options, k) for k in _SIZES}
    is_same_action = saved.action_size == options.action_size
    before = _shapes(saved)
    saved.update(sizes)
    after = _shapes(options)
    if before == after or _shapes(saved) != after:  # the latter is an error, which this raises
        return LAWMPolicy.from_pretrained(folder, config=options)
    lawm = LAWMPolicy.from_pretrained(
        folder,
        config=options,
        ignore_mismatched_sizes=True,
        may_lack=before.keys() ^ after.keys(),  # layers of a state that only one robot has
    )
    if not is_same_action:
        lawm.reset_action_head()
    return lawm


def _shapes(config: LAWMPolicyConfig) -> dict[str, torch.Size]:
    """Of all weights of a policy."""
    policy_class: Any = MODEL_MAPPING[type(config)]
    with torch.device("meta"):
        return {name: value.shape for name, value in policy_class(config).state_dict().items()}
