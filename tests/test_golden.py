# SPDX-License-Identifier: Apache-2.0
"""Expected outputs of every model, committed: a refactoring that changes numbers is seen.

Weights and inputs are drawn by numpy from the names of the tensors, so they are the same wherever
torch draws others. `python tests/test_golden.py` writes the files anew; say in the changelog's
Numerics why. Made with torch 2.11 on an x86-64 CPU.
"""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lawm_hf.models import (
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
)

FOLDER = Path(__file__).parent / "golden"
B, N, SIDE = 2, 3, 32
SIZES = {"chunk_size": N, "action_size": 3, "state_size": 2, "task_embed_size": 8}
SIZES |= {"image_size": SIDE, "hidden_size": 16, "encoder_channels": (16,)}
WORLD = {"image_size": SIDE, "action_size": 3, "deter_size": 16, "hidden_size": 8, "depth": 4}
WORLD |= {"num_categoricals": 4, "num_classes": 4, "num_blocks": 2, "num_decoded_steps": None}


def draw(name: str, *shape: int) -> Tensor:
    """Numbers in [-1, 1) that depend on the name alone."""
    rng = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
    return torch.from_numpy(rng.random(shape, dtype=np.float32) * 2 - 1)


def fill[M: nn.Module](model: M) -> M:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan_in = max(1, parameter[0].numel() if parameter.ndim > 1 else 4)
            parameter.copy_(draw(name, *parameter.shape) * (3 / fan_in) ** 0.5)
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point() and "running" not in name and "kernel" not in name:
                buffer.copy_(draw(name, *buffer.shape))
    return model.eval()


def observation() -> dict[str, Tensor]:
    return {
        "pixel_values": draw("pixels", B, 2, 3, SIDE, SIDE),
        "task_embeds": draw("task", B, 8),
        "state": draw("state", B, 2),
        "view_mask": torch.tensor([[True, True], [True, False]]),
    }


def policy_outputs(policy) -> dict[str, Tensor]:
    targets = {"actions": draw("actions", B, N, 3), "action_is_pad": draw("pad", B, N) > 0.5}
    torch.manual_seed(0)
    latents = policy(**observation()).actions
    policy.config.latent_norm = "batch"
    standardised = policy.train()(**observation()).actions
    outputs = {"latents": latents, "standardised": standardised}
    policy.eval().config.latent_norm = "none"
    if isinstance(policy, BakuPolicy):  # the other's loss draws torch's noise
        outputs["loss"] = policy(**observation(), **targets).loss
    return outputs


def baku() -> dict[str, Tensor]:
    return policy_outputs(fill(BakuPolicy(BakuConfig.from_preset("tabletop", **SIZES))))


def baku_resnet() -> dict[str, Tensor]:
    config = BakuConfig(**SIZES | {"encoder_depths": (1,), "num_layers": 2, "dropout": 0.0})
    return policy_outputs(fill(BakuPolicy(config)))


def diffusion() -> dict[str, Tensor]:
    config = DiffusionPolicyConfig.from_preset("tabletop", **SIZES, down_dims=(8, 16))
    return policy_outputs(fill(DiffusionPolicy(config)))


def world(model, **noise: Tensor) -> dict[str, Tensor]:
    frames = draw("frames", B, N + 1, 3, SIDE, SIDE) / 2 + 0.5
    actions = draw("latents", B, N, 3).requires_grad_()
    pad = torch.zeros(B, N + 1, dtype=torch.bool)
    pad[1, -1] = True
    output = model(frames=frames, actions=actions, frame_is_pad=pad, **noise)
    output.loss.backward()
    return {
        "loss": output.loss,
        "reconstruction": output.reconstruction_loss,
        "kl": output.kl_loss,
        "gradient": actions.grad,
        "predicted": model.predict_frames(frames[:, 0], actions)[:, -1, :, ::4, ::4],
    }


def dreamer(**options) -> DreamerV3WorldModel:
    return fill(DreamerV3WorldModel(DreamerV3Config(**WORLD | options)))


def imagination() -> dict[str, Tensor]:
    return world(dreamer())


def paper() -> dict[str, Tensor]:
    from lawm_hf.models.configuration_dreamer import PAPER_FORM

    return world(dreamer(**PAPER_FORM, decoder_kernel_size=5))


BESIDE = {"image_size": SIDE, "action_size": 3, "hidden_size": 16, "num_heads": 2}


def frame_diffusion() -> dict[str, Tensor]:
    config = FrameDiffusionConfig(**BESIDE, patch_size=4, channels=(8, 16))
    noise = {"noise": draw("noise", B, N, 3, SIDE, SIDE), "levels": draw("levels", B, N)}
    return world(fill(FrameDiffusionWorldModel(config)), **noise)


def features() -> dict[str, Tensor]:
    return world(fill(FeatureWorldModel(FeatureWorldConfig(**BESIDE, decoder_size=8))))


def pair() -> dict[str, Tensor]:
    policy = BakuPolicy(BakuConfig.from_preset("tabletop", **SIZES, latent_norm="batch"))
    model = fill(LAWMForPretraining(policy, DreamerV3WorldModel(DreamerV3Config(**WORLD))))
    frames = draw("frames", B, N + 1, 3, SIDE, SIDE) / 2 + 0.5
    output = model(frames=frames, **observation())
    output.loss.backward()
    head = model.policy.action_head.weight
    return {"loss": output.loss, "latents": output.latents, "head_gradient": head.grad}


MODELS = [baku, baku_resnet, diffusion, imagination, paper, frame_diffusion, features, pair]


@pytest.mark.parametrize("outputs", MODELS, ids=lambda function: function.__name__)
def test_outputs_are_those_of_the_committed_file(outputs):
    expected = load_file(FOLDER / f"{outputs.__name__}.safetensors")
    found = outputs()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        scale = tensor.abs().max().item()
        torch.testing.assert_close(
            found[name].detach(), tensor, rtol=2e-4, atol=2e-4 * scale, msg=lambda m, n=name: n + m
        )


if __name__ == "__main__":
    for function in MODELS:
        tensors = {k: v.detach().contiguous() for k, v in function().items()}
        save_file(tensors, FOLDER / f"{function.__name__}.safetensors")
