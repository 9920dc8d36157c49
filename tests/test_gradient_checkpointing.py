# SPDX-License-Identifier: Apache-2.0
"""Activations that are computed again change nothing but the memory."""

import dreamer_fixtures
import pytest
import torch
from contract import make_inputs
from test_baku import PATCH, RESNET, TINY

from lawm_hf import BakuConfig, BakuPolicy, DiffusionPolicy, DiffusionPolicyConfig
from lawm_hf.models import LAWMForPretraining, modeling_frames


def world_model(**options):
    return dreamer_fixtures.build(**options), dreamer_fixtures.batch()


def baku(vision):
    policy = BakuPolicy(BakuConfig(**TINY, **vision, dropout=0.1))
    return policy, make_inputs(policy.config)


def diffusion():
    sizes = {key: TINY[key] for key in ("chunk_size", "action_size", "state_size", "image_size")}
    sizes |= {"task_embed_size": 12, "hidden_size": 16, "down_dims": (8, 16)}
    policy = DiffusionPolicy(DiffusionPolicyConfig(**sizes, **RESNET))
    return policy, make_inputs(policy.config)


MODELS = {
    "posterior": lambda: world_model(objective="posterior"),
    "imagination": lambda: world_model(objective="imagination"),
    "skips": lambda: world_model(
        objective="imagination", residual_decoder=True, decoder_skips=True
    ),
    "patch": lambda: baku(PATCH),
    "resnet": lambda: baku(RESNET),
    "diffusion": diffusion,
}


def kept(model, inputs) -> tuple[int, torch.Tensor, dict[str, torch.Tensor]]:
    """Bytes that the backward pass is kept waiting for, the loss and the gradients."""
    sizes = {}
    owned = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(0)
    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model(**inputs).loss
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return sum(sizes.values()), loss, gradients


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_the_same_and_less_is_kept(name, monkeypatch):
    monkeypatch.setattr(modeling_frames, "FRAMES_AT_ONCE", 5)
    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    model.train()
    bytes_before, loss, gradients = kept(model, inputs)
    model.gradient_checkpointing_enable()
    bytes_after, same_loss, same_gradients = kept(model, inputs)
    torch.testing.assert_close(same_loss, loss, rtol=1e-6, atol=0)
    assert gradients.keys() == same_gradients.keys()
    for key, gradient in gradients.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(same_gradients[key], gradient, rtol=1e-4, atol=1e-5 * scale)
    assert bytes_after < bytes_before
    model.gradient_checkpointing_disable()
    assert kept(model, inputs)[0] == bytes_before


def test_a_pair_enables_it_in_both_of_its_models():
    model = LAWMForPretraining(
        BakuPolicy(BakuConfig(**TINY | {"action_size": dreamer_fixtures.A}, **PATCH)),
        dreamer_fixtures.build(),
    )
    model.gradient_checkpointing_enable()
    on = [n for n, m in model.named_modules() if getattr(m, "gradient_checkpointing", False)]
    assert {"world_model.decoder.layers", "policy.blocks.0", "policy.vision.blocks.0"} <= {*on}
