# SPDX-License-Identifier: Apache-2.0
"""BAKU of the LAWM authors from a clone of their code, in the sizes of their configuration files.

What their imports want and a policy does not use (simulators, Hydra, point clouds) is stood in for.
Instructions are embedded beforehand there, too.
"""

import importlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from torchvision.transforms import Normalize

_UNUSED = (
    *("natsort", "hydra", "hydra.utils", "omegaconf", "open3d", "imageio"),
    *("gymnasium.envs.mujoco.mujoco_rendering", "lawm.dataset", "lawm.dataset.utils"),
)
_VIEWS = ("agentview_image", "robot0_eye_in_hand_image")
_MOTORS = {"robot0_eef_pos": 3, "robot0_gripper_qpos": 2}


class _Meta(dict):
    """Their configuration reads keys as attributes."""

    __getattr__ = dict.__getitem__


def load(clone: Path) -> Any:
    """Their BAKU with random weights, chunk of 10, as `config/algo/baku.yaml` has it.

    Raises:
        ValueError: If the folder does not hold their code.
    """
    if not (clone / "lawm/algos/baku.py").is_file():
        raise ValueError(f"{clone} must be a clone of the authors' code (`lawm/algos/baku.py`).")
    sys.path.insert(0, str(clone))
    for name in _UNUSED:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = MagicMock()
    module = importlib.import_module
    rgb, blocks = module("lawm.algos.encoders.rgb"), module("lawm.algos.encoders.rgb_modules")
    pictures = {name: [3, 128, 128] for name in _VIEWS}
    meta = _Meta(
        actions={"actions": 7},
        abs_actions={"abs_actions": 7},
        **dict.fromkeys(
            ("rotation_rep_in", "rotation_rep_in_abs", "rotation_rep_out"), "axis_angle"
        ),
        observation=_Meta(rgb=pictures, depth={}, lowdim=_MOTORS),
        task=_Meta(type="vector", dim=512),
    )
    vision = partial(
        blocks.ResnetEncoder, output_size=256, remove_layer_num=4, language_fusion="film"
    )
    motors = partial(module("lawm.algos.utils.mlp_proj").MLPProj, output_size=256, num_layers=1)
    encoder = rgb.RGBEncoder(
        vision, motors, language_fusion=True, frame_stack=1, shape_meta=meta, lang_embed_dim=256
    )
    policy = module("lawm.algos.baku").Baku(
        *(256, 0.1, 1, 256, "deterministic", False),
        action_horizon=2,
        chunk_size=10,
        temporal_agg=True,
        encoder=encoder,
        **dict.fromkeys(("aug_factory", "optimizer_factory")),
        shape_meta=meta,
        abs_action=False,
        device="cpu",
        normalizer=module("lawm.algos.utils.normalizer").Normalizer(mode="identity"),
    )
    # As with the ImageNet weights that they begin with.
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    policy.encoder.image_encoders.normalizer = Normalize(mean, std)
    return policy.eval()


def caller(policy: Any) -> Callable[[torch.Tensor, torch.Tensor], Any]:
    """From uint8 views `(1, V, C, H, W)` and an embedding `(1, L)` to their chunk, NumPy."""
    motors = {name: torch.zeros(1, 1, size) for name, size in _MOTORS.items()}

    def act(images: torch.Tensor, task: torch.Tensor) -> Any:
        views = dict(zip(_VIEWS, images.unsqueeze(2).float().unbind(1), strict=True))
        return policy.sample_actions({"obs": {**views, **motors}, "task_emb": task})

    return act
