# SPDX-License-Identifier: Apache-2.0
"""The LAWM authors' joint model, built from a local clone of github.com/baheytharwat/lawm.

Nothing of theirs is kept here. Their code runs as it is, but for what has no meaning on a machine
without their set-up: packages for simulators and configuration that the model never calls are
replaced by stand-ins, the device is the CPU, and ImageNet weights are not downloaded.
"""

import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import torch
import yaml
from torch import Tensor, nn

_NEVER_CALLED = ("open3d", "hydra", "hydra.utils", "omegaconf", "natsort", "wandb", "mujoco")
_NEVER_CALLED += ("gymnasium.envs.mujoco.mujoco_rendering",)


def build_world_model(clone: Path, size: str) -> nn.Module:
    """Their world model of a size such as `50m`, for 128-pixel frames and 7-dimensional actions."""
    if str(clone) not in sys.path:
        sys.path.insert(0, str(clone))
    from dreamerv3.models import WorldModel  # type: ignore
    from dreamerv3.utils import (  # type: ignore
        Config,
        apply_size_override,
        setup_config_for_worldmodel,
    )

    raw = yaml.safe_load((clone / "dreamerv3" / "worldmodel_config.yaml").read_text())
    raw["defaults"] |= {"device": "cpu", "model_size": size}
    apply_size_override(raw, f"size{size}")
    config = setup_config_for_worldmodel(raw["defaults"].copy(), raw.get(f"size{size}", {}))
    spaces = {"image": SimpleNamespace(shape=(128, 128, 3))}
    return WorldModel(SimpleNamespace(spaces=spaces), Config(**config))


class AuthorsJoint(nn.Module):
    """Their BAKU and world model, and the step of their training script.

    Args:
        clone: Folder of the clone.
        size: Of the world model.
        is_mended: Let the world model's gradient reach the policy. As released it does not: the
            input is copied by `torch.tensor`.
    """

    def __init__(self, clone: Path, size: str, is_mended: bool):
        super().__init__()
        self.is_mended = is_mended
        self.world_model = build_world_model(clone, size)
        self.policy = build_policy(clone)

    def latents(self, batch: dict[str, Tensor]) -> Tensor:
        """The chunk `(B, 10, 7)` that their policy predicts."""
        views = [batch["pixels"][:, view, None].float() / 255 for view in range(2)]
        data = {
            "obs": {
                "agentview_image": views[0],
                "robot0_eye_in_hand_image": views[1],
                "robot0_eef_pos": batch["state"][:, None, :3],
                "robot0_gripper_qpos": batch["state"][:, None, 3:],
            },
            "task_emb": batch["task_embeds"],
        }
        return self.policy(data).loc.view(-1, 10, 7)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Loss of one batch: frames `x_{t+1} .. x_{t+10}`."""
        frames = batch["frames"][:, 1:]
        is_first = torch.zeros(frames.shape[:2])
        is_first[:, 0] = 1
        inputs = {"image": frames.permute(0, 1, 3, 4, 2), "is_first": is_first}
        inputs["action"] = self.latents(batch)
        copy: Any = _keep_graph if self.is_mended else torch.tensor
        with patch.object(torch, "tensor", copy):
            return self.world_model._train(inputs)  # pyright: ignore[reportCallIssue]

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Their two AdamWs: matrices with weight decay, the rest without."""
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for parameter in self.parameters():
            groups[parameter.ndim > 1].append(parameter)
        options = {"lr": 1e-4, "betas": (0.95, 0.999), "eps": 1e-8}
        return [
            torch.optim.AdamW(group, weight_decay=1e-6 if is_matrix else 0.0, **options)
            for is_matrix, group in groups.items()
        ]


def _keep_graph(value: Any, **options: Any) -> Tensor:
    return torch.as_tensor(value, **options)


def build_policy(clone: Path) -> nn.Module:
    """Their BAKU, chunk of 10, two views of 128 pixels and 5 numbers of state."""
    if str(clone) not in sys.path:
        sys.path.insert(0, str(clone))
    for name in _NEVER_CALLED:
        sys.modules.setdefault(name, MagicMock())
    from lawm.algos.baku import Baku  # type: ignore
    from lawm.algos.encoders.rgb import RGBEncoder  # type: ignore
    from lawm.algos.encoders.rgb_modules import ResnetEncoder  # type: ignore
    from lawm.algos.utils.mlp_proj import MLPProj  # type: ignore
    from lawm.algos.utils.normalizer import Normalizer  # type: ignore

    cameras = ("agentview", "robot0_eye_in_hand")
    observation = {
        "rgb": {f"{camera}_image": [3, 128, 128] for camera in cameras},
        "depth": {f"{camera}_depth": [1, 128, 128] for camera in cameras},
        "lowdim": {"robot0_eef_pos": 3, "robot0_gripper_qpos": 2},
    }
    shapes: Any = _Shapes(observation=observation, actions={"actions": 7})
    shapes |= {f"rotation_rep_{way}": "axis_angle" for way in ("in", "in_abs", "out")}
    shapes.task = SimpleNamespace(type="vector", dim=512)
    sizes = {"output_size": 256}
    vision = {"pretrained": False, "remove_layer_num": 4, "replace_bn_with_gn": False}
    encoder = RGBEncoder(
        image_encoder_factory=partial(ResnetEncoder, **sizes, **vision),
        lowdim_encoder_factory=partial(MLPProj, **sizes, num_layers=1),
        language_fusion=True,
        shape_meta=shapes,
        lang_embed_dim=256,
    )
    return Baku(
        hidden_dim=256,
        std=0.1,
        frame_stack=1,
        embed_dim=256,
        policy_head="deterministic",
        apply_wm=False,
        encoder=encoder,
        aug_factory=None,
        optimizer_factory=None,
        shape_meta=shapes,
        abs_action=False,
        device="cpu",
        normalizer=Normalizer(mode="identity"),
        action_horizon=2,
        chunk_size=10,
        temporal_agg=True,
    )


class _Shapes(dict):
    """Their configuration's mapping, which is also read by attribute."""

    task: Any
