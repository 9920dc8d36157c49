# SPDX-License-Identifier: Apache-2.0
"""A world model of several views and of the robot's state."""

import pytest
import torch
from dreamer_fixtures import OBJECTIVES, A, B, N, batch, build, gradients
from test_baku import PATCH, TINY

from lawm_hf.models import BakuConfig, BakuPolicy, LAWMForPretraining, LAWMWorldModel
from lawm_hf.models.auto_lawm import new_world_model

V, P = 2, 3
BOTH = {"num_views": V, "state_size": P, "initial_state": "frame", "residual_decoder": True}
each_objective = pytest.mark.parametrize("objective", OBJECTIVES)


def clips(seed: int = 0, num_views: int = V, state_size: int = P) -> dict[str, torch.Tensor]:
    views = [batch(seed + view)["frames"] for view in range(num_views)]
    generator = torch.Generator().manual_seed(seed)
    states = torch.rand(B, N + 1, state_size, generator=generator) * 2 - 1
    told = {"frame_states": states} if state_size else {}
    return batch(seed) | {"frames": torch.cat(views, 2)} | told


@each_objective
@pytest.mark.parametrize("part", ["view 0", "view 1", "state"])
def test_gradient_reaches_every_latent_through_each_view_and_through_the_state_alone(
    objective, part
):
    model, data = build(objective=objective, dyn_scale=0, rep_scale=0, **BOTH), clips()
    actions = data["actions"].requires_grad_()
    error = model._view_error

    def of_one_view(drawn, targets, first):
        number = of_one_view.calls % V
        of_one_view.calls += 1
        return error(drawn, targets, first) * (part == f"view {number}")

    of_one_view.calls = 0
    model._view_error = of_one_view
    model.config.state_scale = float(part == "state")
    model(**data | {"actions": actions}).loss.backward()
    assert (actions.grad.abs().sum(-1) > 0).all()


@each_objective
@pytest.mark.parametrize("switch", [{}, {"residual": "composite", "decoder_skips": True}])
def test_gradient_reaches_every_parameter_and_the_policy(objective, switch):
    world_model = build(objective=objective, free_nats=0, **BOTH, **switch)
    torch.manual_seed(0)
    sizes = {"chunk_size": N, "action_size": A, "state_size": 0, "latent_norm": "batch"}
    model = LAWMForPretraining(BakuPolicy(BakuConfig(**TINY | PATCH | sizes)), world_model)
    data = clips()
    images, task = torch.randn(B, 1, 3, 32, 32), torch.randn(B, 12)
    seen = {"frames": data["frames"], "frame_states": data["frame_states"]}
    out = model.train()(**seen, pixel_values=images, task_embeds=task)
    out.loss.backward()
    assert [n for n, g in gradients(world_model).items() if not g.abs().max() > 0] == []
    assert all(p.grad is not None and p.grad.any() for p in model.policy.vision.parameters())
    assert out.state_loss.shape == out.reconstruction_loss.shape == (B, N)


@pytest.mark.parametrize("residual", ["difference", "composite"])
def test_each_view_is_compared_with_itself_and_changes_itself(residual):
    model = build(objective="imagination", residual=residual, motion_weight=1.0, **BOTH).eval()
    data = clips()
    with torch.no_grad():
        model.decoder.layers[-1].weight.zero_()
        if residual == "composite":  # a clear picture
            model.decoder.layers[-1].bias.fill_(-30)
    still = data["frames"][:, :1].expand(-1, N + 1, -1, -1, -1)
    assert model(**data | {"frames": still}).reconstruction_loss.max() < 1e-6
    swapped = torch.cat([still[:, :1], still[:, 1:].roll(3, 2)], 1)
    assert model(**data | {"frames": swapped}).reconstruction_loss.min() > 1


def test_a_view_is_weighed_by_its_own_motion():
    model = build(objective="imagination", motion_weight=1.0, **BOTH)
    drawn, targets, first = torch.rand(3, B, N, 6, 32, 32).unbind()
    first, targets = first[:, :1], targets.clone()
    targets[:, :, :3] = first[:, :, :3]  # the first view stands still
    still, moved = (
        model._view_error(*v)
        for v in zip(*(x.split(3, 2) for x in (drawn, targets, first)), strict=True)
    )
    torch.testing.assert_close(model._error(drawn, targets, first), still + moved)
    plain = (drawn - targets)[:, :, :3].square().sum((-3, -2, -1))
    torch.testing.assert_close(still, 0.2 * plain)


@each_objective
def test_the_state_after_an_action_is_that_of_the_frame_after_it(objective):
    model, data = build(objective=objective, **BOTH).eval(), clips()
    told = model.states.draw = lambda deter, stoch, first: data["frame_states"][:, 1:]
    assert model(**data).state_loss.max() == 0
    for k in range(1, N + 1):
        states = data["frame_states"].clone()
        expected = torch.zeros(B, N)
        model.states.draw = lambda deter, stoch, first, told=told: told(deter, stoch, first)
        states[:, k] += 1
        expected[:, k - 1] = P
        torch.testing.assert_close(model(**data | {"frame_states": states}).state_loss, expected)


def test_a_state_is_drawn_as_the_difference_to_the_first_and_starts_near_it():
    model, data = build(objective="imagination", **BOTH).eval(), clips()
    first = data["frame_states"][:, 0]
    told = model.predict_states(data["frames"][:, 0], data["actions"], first)
    assert told.shape == (B, N, P)
    assert (told - first[:, None]).abs().max() < 0.05
    assert not torch.equal(told[:, 0], told[:, 1])


def test_the_prediction_depends_on_the_first_state():
    model, data = build(objective="imagination", **BOTH).eval(), clips()
    frames, states = data["frames"][:, 0], data["frame_states"]
    with torch.no_grad():
        model.decoder.layers[-1].weight.mul_(100)
        model.states.encoder.weight.mul_(100)
    drawn = [model.predict_frames(frames, data["actions"], states[:, k]) for k in (0, 1)]
    assert drawn[0].shape == (B, N, 3 * V, 32, 32)
    assert not torch.allclose(*drawn)


@each_objective
def test_padded_frames_and_states_add_nothing_and_are_not_seen(objective):
    model, data = build(objective=objective, num_decoded_steps=2, **BOTH), clips()
    is_pad = torch.zeros(B, N + 1, dtype=torch.bool)
    is_pad[0, 2:] = True
    losses = []
    for garbage in (0.5, float("nan")):
        frames, states = data["frames"].float() / 255, data["frame_states"].clone()
        frames[is_pad], states[is_pad] = garbage, garbage
        torch.manual_seed(0)
        told = {"frames": frames, "frame_states": states, "frame_is_pad": is_pad}
        losses.append(model(**data | told))
    assert losses[0].loss == losses[1].loss
    assert not losses[0].state_loss[0, 1:].any()


@each_objective
def test_saving_and_loading_keeps_loss_and_predictions(objective, tmp_path):
    model, data = build(objective=objective, **BOTH).eval(), clips()
    model.save_pretrained(tmp_path)
    loaded = LAWMWorldModel.from_pretrained(tmp_path).eval()
    assert torch.equal(model(**data).loss, loaded(**data).loss)
    start = data["frames"][:, 0], data["actions"], data["frame_states"][:, 0]
    assert torch.equal(model.predict_states(*start), loaded.predict_states(*start))
    redrawn = model.redraw_frames(data["frames"], data["actions"], data["frame_states"])
    assert (redrawn is None) == (objective == "imagination")


@each_objective
def test_one_view_and_no_state_has_the_weights_and_the_loss_of_a_model_without_the_options(
    objective,
):
    plain, told = build(objective=objective), build(objective=objective, num_views=1, state_size=0)
    assert plain.state_dict().keys() == told.state_dict().keys()
    assert not any("states" in name for name in plain.state_dict())
    assert torch.equal(plain(**batch()).loss, told(**batch()).loss)


@pytest.mark.parametrize("given", [None, torch.zeros(B, N, P), torch.zeros(B, N + 1, P + 1)])
def test_states_that_are_missing_or_of_another_shape_are_refused(given):
    model, data = build(objective="imagination", **BOTH), clips()
    with pytest.raises(ValueError, match=f"normalised states, {P} for each of"):
        model(**data | {"frame_states": given})


def test_what_a_model_does_not_predict_is_refused():
    with pytest.raises(ValueError, match="normalised states, none for"):
        build()(**batch(), frame_states=torch.zeros(B, N + 1, P))
    with pytest.raises(ValueError, match="3 channels for each of 1 views"):
        build()(**clips(state_size=0))
    for name in ("frame_diffusion", "features"):
        with pytest.raises(ValueError, match="has no option `num_views`"):
            new_world_model(name, num_views=2)
