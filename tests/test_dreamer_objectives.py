# SPDX-License-Identifier: Apache-2.0
"""The optional objectives of the world model: composite and masked frames, errors of features."""

import json

import pytest
import torch
from dreamer_fixtures import OBJECTIVES, A, B, N, batch, build, gradients
from test_baku import PATCH, TINY
from transformers import AutoModel

from lawm_hf.models.configuration_baku import BakuConfig
from lawm_hf.models.modeling_baku import BakuPolicy
from lawm_hf.models.modeling_lawm import LAWMWorldModel
from lawm_hf.models.modeling_objectives import FixedFeatures, hide_patches, lay_over
from lawm_hf.models.modeling_outputs import frame_error
from lawm_hf.models.modeling_pretraining import LawmForPretraining

RESIDUAL = {"initial_state": "frame", "residual_decoder": True, "motion_weight": 1.0}
SWITCHES = {
    "composite": {"residual": "composite"},
    "skips": {"residual": "composite", "decoder_skips": True},
    "masked": {"mask_ratio": 0.5},
    "features": {"frame_loss": "features"},
}
each_switch = pytest.mark.parametrize("switch", SWITCHES.values(), ids=SWITCHES.keys())
each_objective = pytest.mark.parametrize("objective", OBJECTIVES)


# ------------------------------------------------------------------------------- every switch


@each_switch
@each_objective
def test_gradient_reaches_every_parameter_every_latent_action_and_the_policy(objective, switch):
    world_model = build(objective=objective, free_nats=0, **RESIDUAL, **switch)
    torch.manual_seed(0)
    sizes = {"chunk_size": N, "action_size": A, "state_size": 0, "latent_norm": "batch"}
    model = LawmForPretraining(BakuPolicy(BakuConfig(**TINY | PATCH | sizes)), world_model)
    images, task = torch.randn(B, 1, 3, 32, 32), torch.randn(B, 12)
    out = model.train()(batch()["frames"], pixel_values=images, task_embeds=task)
    out.latents.retain_grad()
    out.loss.backward()
    assert [n for n, g in gradients(world_model).items() if not g.abs().max() > 0] == []
    assert (out.latents.grad.abs().sum(-1) > 0).all()  # the first one included
    assert all(p.grad is not None and p.grad.any() for p in model.policy.vision.parameters())


@each_switch
def test_saving_and_loading_keeps_the_loss_and_the_frames(switch, tmp_path):
    model, data = build(**RESIDUAL, **switch).eval(), batch()
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(model(**data).loss, loaded(**data).loss)
    states = model.observe(model.encode(data["frames"]), data["actions"])
    drawn = [m.decode(states, data["frames"][:, 0]) for m in (model, loaded)]
    assert torch.equal(*drawn)


@each_switch
def test_padding_does_not_change_the_loss_under_a_switch(switch):
    model, data = build(**RESIDUAL, **switch), batch()
    is_pad = torch.zeros(B, N + 1, dtype=torch.bool)
    is_pad[0, 2:] = True
    losses = []
    for garbage in (0.5, float("nan")):
        frames = data["frames"].float() / 255
        frames[is_pad] = garbage
        torch.manual_seed(0)
        losses.append(model(frames, data["actions"], is_pad, data["noise"]).loss)
    assert losses[0] == losses[1]


# ---------------------------------------------------------------------------------- composite


def test_a_clear_picture_shows_the_first_frame_and_an_opaque_one_hides_it():
    frame, picture = torch.rand(2, 1, 3, 8, 8), torch.rand(2, 4, 3, 8, 8)
    opacity = torch.full((2, 4, 1, 8, 8), -30.0)
    opacity[..., 4:] = 30
    laid = lay_over(frame, torch.cat([picture, opacity], 2))
    torch.testing.assert_close(laid[..., :4], frame.expand_as(picture)[..., :4])
    torch.testing.assert_close(laid[..., 4:], picture[..., 4:])


def test_a_composite_decoder_starts_near_a_copy_of_the_first_frame():
    model, data = build(residual="composite", **RESIDUAL), batch()
    first = data["frames"][:, :1].float() / 255
    states = model.observe(model.encode(data["frames"]), data["actions"])
    drawn = model.decode(states, data["frames"][:, 0])
    assert (drawn - first).square().mean() < 0.1 * (first - 0.5).square().mean()


def test_a_picture_over_no_first_frame_is_refused():
    with pytest.raises(Exception, match="A composite changes the first frame"):
        build(residual="composite", residual_decoder=False)


def test_the_flow_that_was_removed_is_refused_in_options_and_checkpoints(tmp_path):
    with pytest.raises(Exception, match=r"nothing was learned .* Train with `residual=.composite"):
        build(residual="flow", **RESIDUAL)
    build(**RESIDUAL).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    old = json.loads(config.read_text()) | {"residual": "flow"}
    config.write_text(json.dumps(old))
    with pytest.raises(Exception, match='`residual="flow"` was removed'):
        LAWMWorldModel.from_pretrained(tmp_path)
    with pytest.raises(Exception, match='"difference" or "composite", got \'flwo\''):
        build(residual="flwo")


# -------------------------------------------------------------------------------------- skips


@each_objective
def test_with_skips_the_decoder_sees_the_first_frame_and_not_what_was_hidden_of_it(objective):
    model, data = build(objective=objective, decoder_skips=True, **RESIDUAL), batch()
    states = model.observe(model.encode(data["frames"]), data["actions"])
    first, other = data["frames"][:, :1], data["frames"][:, 1:2]
    difference = model.decode(states, first[:, 0]) - first / 255
    assert not torch.equal(difference, model.decode(states, other[:, 0]) - other / 255)
    images = model._centre(first)
    drawn = [model._draw(states, images, seen) for seen in (images, torch.zeros_like(images))]
    assert torch.equal(drawn[0], model._draw(states, images))
    assert not torch.equal(*drawn)


def test_a_plain_decoder_that_sees_the_first_frame_is_refused():
    with pytest.raises(Exception, match="A decoder that sees the first frame changes it"):
        build(decoder_skips=True, residual_decoder=False)


# ------------------------------------------------------------------------------------- masked


def test_hidden_patches_are_grey_whole_and_the_same_in_all_frames_of_a_clip():
    torch.manual_seed(0)
    images = torch.rand(64, 3, 3, 32, 32) + 0.1  # never grey, which is 0
    patches = (hide_patches(images, 0.25) == 0).unflatten(-1, (8, 4)).unflatten(-3, (8, 4))
    patches = patches.transpose(-3, -2).flatten(-2)  # (64, 3, 3, 8, 8, 16)
    assert torch.equal(patches.any(-1), patches.all(-1))
    hidden = patches.all(-1)
    assert torch.equal(hidden, hidden[:, :1, :1].expand_as(hidden))
    assert hidden.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert not torch.equal(hidden[0], hidden[1])


@each_objective
def test_masking_acts_in_training_and_leaves_evaluation_alone(objective):
    data, options = batch(), {"objective": objective, **RESIDUAL}
    plain, masked = build(**options), build(**options, mask_ratio=0.5)
    assert torch.equal(plain.eval()(**data).loss, masked.eval()(**data).loss)
    assert not torch.equal(plain.train()(**data).loss, masked.train()(**data).loss)
    assert not torch.equal(masked(**data).loss, masked(**data).loss)


def test_a_residual_decoder_changes_the_whole_first_frame_though_part_of_it_was_hidden():
    model, data = build(objective="imagination", mask_ratio=0.9, **RESIDUAL), batch()
    still = data["frames"][:, :1].expand(-1, N + 1, -1, -1, -1)
    with torch.no_grad():
        model.decoder.layers[-1].weight.zero_()
    assert model(still, data["actions"]).loss < 1e-9


# ----------------------------------------------------------------------------------- features


def test_equal_frames_have_equal_features_and_other_frames_have_not():
    model, frames = build(frame_loss="features", **RESIDUAL), torch.rand(B, N, 3, 32, 32)
    assert torch.equal(model._error(frames, frames, frames[:, :1]), torch.zeros(B, N))
    other = frames.flip(0)
    assert (model._error(other, frames, frames[:, :1])[[0, 2]] > 1).all()


def test_an_error_of_features_weighs_about_as_much_as_one_of_pixels():
    torch.manual_seed(0)
    images, noise = 0.2 * torch.randn(2, 16, 1, 3, 32, 32)
    pixels = frame_error(images + noise, images, images).mean()
    features = build(frame_loss="features")._error(images + noise, images, images).mean()
    assert 0.5 < features / pixels < 2


def test_the_network_of_the_features_is_always_the_same_and_never_trains():
    models = [build(seed=seed, frame_loss="features", **RESIDUAL) for seed in (0, 1)]
    kernels = [list(model.features.buffers()) for model in models]
    assert all(torch.equal(a, b) for a, b in zip(*kernels, strict=True))
    assert list(models[0].features.parameters()) == []
    before = [kernel.clone() for kernel in kernels[0]]
    optimizer = torch.optim.AdamW(models[0].parameters(), lr=0.1, weight_decay=0.1)
    models[0](**batch()).loss.backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, kernels[0], strict=True))
    features = FixedFeatures(3)
    features.draw_kernels()
    assert all(torch.equal(a, b) for a, b in zip(before, features.buffers(), strict=True))


def test_only_errors_of_features_carry_a_network():
    assert not any("features" in name for name in build().state_dict())
