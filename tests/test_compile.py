# SPDX-License-Identifier: Apache-2.0
"""Every model is one graph to `torch.compile`: nothing in it looks at a number."""

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from lawm_hf.models import LAWMForPretraining
from lawm_hf.models.auto_lawm import new_policy, new_world_model
from lawm_hf.models.configuration_dreamer import PAPER_FORM

pytestmark = pytest.mark.slow  # torch's compiler takes seconds to start
B, N, SIDE, A = 2, 2, 32, 4
SIZES = {"chunk_size": N, "action_size": A, "image_size": SIDE, "task_embed_size": 8}
POLICIES = {
    "baku": {"hidden_size": 16, "encoder_channels": (16,), "num_layers": 1},
    "diffusion": {"hidden_size": 16, "encoder_channels": (16,), "down_dims": (8,)},
    "lawm_lerobot_act": {"image_size": 64},
}
WORLD_MODELS = {
    "imagination": {"num_decoded_steps": 1},
    "paper": PAPER_FORM,
    "features": {"training_states": "posterior", "frame_loss": "features"},
    "masked": {"mask_ratio": 0.5, "motion_weight": 1.0},
    "skips": {"residual": "composite", "decoder_skips": True},
}


def policy(name: str, **options: Any) -> Any:
    if name == "lawm_lerobot_act":
        pytest.importorskip("lerobot")
        importlib.import_module("lawm_hf.lerobot.act")
    return new_policy(name, "tabletop", **SIZES | POLICIES[name] | options)


BESIDE = {
    "frame_diffusion": {"channels": (8, 16), "num_decoded_steps": 2},
    "features": {"decoder_size": 8, "num_decoded_steps": 2},
}


def world_model(form: str, side: int = SIDE) -> Any:
    if form in BESIDE:
        options = {"image_size": side, "action_size": A, "hidden_size": 16, "num_layers": 1}
        return new_world_model(form, "tiny", **options | BESIDE[form])
    options = {"image_size": side, "action_size": A, "deter_size": 16, "hidden_size": 8, "depth": 4}
    return new_world_model("dreamerv3", "tiny", **options | WORLD_MODELS[form])


def inputs(config: Any) -> dict[str, Tensor]:
    views = torch.randn(B, 1, 3, config.image_size, config.image_size)
    mask = torch.ones(B, 1, dtype=torch.bool)
    return {"pixel_values": views, "task_embeds": torch.randn(B, 8), "view_mask": mask}


def assert_one_graph(model: torch.nn.Module, batch: dict[str, Tensor]) -> None:
    """Compile, train a step, and compare with what it does eagerly under the same noise."""
    torch._dynamo.reset()
    results, compiled = [], torch.compile(model.train(), fullgraph=True, backend="eager")
    for forward in (model, compiled):
        model.zero_grad()
        torch.manual_seed(0)
        loss = forward(**batch).loss
        loss.backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        results.append((loss, torch.cat(grads)))
    # Compiled, the scan of the RSSM adds in another order: close as measured by the largest.
    largest = results[0][1].abs().max().item()
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5 * max(1, largest))


@pytest.mark.parametrize("name", POLICIES)
def test_finetuning_is_one_graph(name):
    model = policy(name, state_size=2)
    batch = inputs(model.config) | {"state": torch.randn(B, 2)}
    pad = torch.zeros(B, N, dtype=torch.bool)
    assert_one_graph(model, batch | {"actions": torch.rand(B, N, A), "action_is_pad": pad})


@pytest.mark.parametrize("name", POLICIES)
def test_pretraining_is_one_graph(name):
    first = policy(name, latent_norm="batch")
    side = first.config.image_size
    model = LAWMForPretraining(first, world_model("imagination", side))
    frames = (torch.rand(B, N + 1, 3, side, side) * 255).to(torch.uint8)
    pad = torch.zeros(B, N + 1, dtype=torch.bool)
    assert_one_graph(model, inputs(first.config) | {"frames": frames, "frame_is_pad": pad})


@pytest.mark.parametrize("form", [*WORLD_MODELS, *BESIDE])
def test_a_world_model_is_one_graph(form):
    frames, actions = torch.rand(B, N + 1, 3, SIDE, SIDE), torch.rand(B, N, A, requires_grad=True)
    assert_one_graph(world_model(form), {"frames": frames, "actions": actions})
