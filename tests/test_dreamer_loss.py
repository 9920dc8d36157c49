# SPDX-License-Identifier: Apache-2.0
"""The world model's loss: formulas, and which frame depends on which action and which padding."""

import pytest
import torch
from dreamer_fixtures import OBJECTIVES, B, N, S, batch, build, gradients
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from lawm_hf.models.modeling_outputs import frame_error
from lawm_hf.models.modeling_rssm import categorical_kl, mixed_log_probs, sample_one_hot

# ------------------------------------------------------------------------------------- formulas


def test_a_constant_image_error_costs_its_square_and_the_free_nats_floor():
    # Decoder weights of zero: the prediction is the bias everywhere, e above the true frames.
    model, e = build(), 0.125
    with torch.no_grad():
        model.decoder.layers[-1].weight.zero_()
        model.decoder.layers[-1].bias.fill_(e - 0.25)
    frames = torch.full((B, N + 1, 3, 32, 32), 0.25)  # 0.25 - 0.5 inside, so the error is e
    out = model(frames, batch()["actions"])
    pixels = 3 * 32 * 32
    torch.testing.assert_close(out.reconstruction_loss, torch.full((B, N), pixels * e**2))
    # At initialisation prior and posterior differ by less than one free nat.
    torch.testing.assert_close(out.kl_loss, torch.full((B, N), 0.5 + 0.1))
    assert out.loss.item() == pytest.approx(pixels * e**2 + 0.6, rel=1e-5)


def test_kl_and_unimix_follow_their_definitions():
    torch.manual_seed(0)
    p_logits, q_logits = torch.randn(2, B, S, 8) * 3
    expected = [Categorical(probs=0.98 * x.softmax(-1) + 0.02 / 8) for x in (p_logits, q_logits)]
    p, q = (mixed_log_probs(x, 0.02) for x in (p_logits, q_logits))
    torch.testing.assert_close(p, expected[0].probs.log())
    torch.testing.assert_close(categorical_kl(p, q), kl_divergence(*expected).sum(-1))


def test_kl_balancing_sends_each_scale_to_its_side_and_free_nats_stop_both():
    def scaled(free_nats: float) -> tuple[Tensor, Tensor, Tensor]:
        model = build(dyn_scale=0.5, rep_scale=0.1, free_nats=free_nats, reconstruction_scale=0)
        torch.nn.init.normal_(model.rssm.prior_bias, std=3.0)
        out = model(**batch())
        out.loss.backward()
        bias = (model.rssm.prior_bias.grad, model.rssm.posterior_bias.grad)
        return out.kl_loss, *bias

    kl, prior_gradient, posterior_gradient = scaled(0.0)
    assert prior_gradient.abs().max() > 0
    assert posterior_gradient.abs().max() > 0
    floor, prior_gradient, posterior_gradient = scaled(1000.0)
    torch.testing.assert_close(floor, torch.full((B, N), 600.0))
    assert (kl < 600).all()
    assert prior_gradient.abs().max() == posterior_gradient.abs().max() == 0


def test_samples_follow_the_probabilities_and_pass_their_gradient():
    log_probs = torch.tensor([0.1, 0.6, 0.3]).log().requires_grad_()
    noise = (torch.arange(1000) + 0.5) / 1000
    samples = sample_one_hot(log_probs.expand(1000, 1, 3), noise[:, None])
    torch.testing.assert_close(samples.mean((0, 1)), log_probs.exp())
    sample_one_hot(log_probs, torch.tensor(0.05))[0].backward()  # draws class 0
    assert log_probs.grad is not None
    torch.testing.assert_close(log_probs.grad, torch.tensor([0.1, 0.0, 0.0]))
    mode = sample_one_hot(log_probs, None)
    torch.testing.assert_close(mode, torch.tensor([0.0, 1.0, 0.0]))


def test_motion_weight_weighs_changed_pixels():
    first = torch.zeros(1, 1, 3, 1, 2)
    frames = first.clone()
    frames[..., 0, 1, 0, 0] = 0.5  # one channel moved far: weight 0.2 + 2 * 1; else 0.2
    error = frame_error(torch.ones_like(frames), frames, first, motion_weight=2.0)
    torch.testing.assert_close(error, torch.tensor([[2.2 * (1 + 0.25 + 1) + 0.2 * 3]]))
    assert frame_error(first, frames, first).item() == 0.25


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_residual_decoder_starts_near_the_copy_baseline(objective):
    data = batch()
    frames = data["frames"][:, :1].float() / 255  # a still video, but for a slight drift
    frames = (frames + 0.02 * torch.arange(N + 1)[:, None, None, None]).clamp(0, 1)
    copy = frame_error(frames[:, :1], frames[:, 1:], frames[:, :1], 1.0).mean()
    losses = {
        is_residual: build(
            objective=objective, residual_decoder=is_residual, motion_weight=1.0, depth=16
        )(frames, data["actions"]).reconstruction_loss.mean()
        for is_residual in (True, False)
    }
    assert losses[True].item() == pytest.approx(copy.item(), rel=0.05)
    assert losses[False] > 2 * copy


def test_a_plain_decoder_starts_near_mid_grey_and_not_with_noise():
    model, data = build(residual_decoder=False, depth=16), batch()
    drawn = model.decode(model.observe(model.encode(data["frames"]), data["actions"]))
    assert (drawn - 0.5).abs().max() < 0.05


def test_a_residual_decoder_needs_the_first_frame():
    model, data = build(residual_decoder=True), batch()
    states = model.observe(model.encode(data["frames"]), data["actions"])
    with pytest.raises(ValueError, match="pass `first_frame`"):
        model.decode(states)
    assert model.decode(states, data["frames"][:, 0]).shape == data["frames"].shape


# --------------------------------------------------------------------- time: alignment, padding


@pytest.mark.parametrize("variant", ["default", "authors"])
@pytest.mark.parametrize("initial_state", ["learned", "frame"])
def test_observe_equals_repeated_single_steps(variant, initial_state):
    model, data = build(variant, initial_state=initial_state), batch()
    embeds, noise = model.encode(data["frames"]), data["noise"]
    states = model.observe(embeds, data["actions"], noise=noise)
    state = model.initial_state(embeds[:, 0], noise[:, 0])
    for k in range(N + 1):
        for whole, single in zip(states.at(k), state, strict=True):
            torch.testing.assert_close(whole, single, rtol=1e-5, atol=1e-5)
        if k < N:
            step = slice(k + 1, k + 2)
            action = data["actions"][:, k : k + 1]
            state = model.observe(embeds[:, step], action, state, noise[:, step]).at(0)


@pytest.mark.parametrize("variant", ["default", "authors"])
def test_imagining_one_step_after_observing_gives_the_prior(variant):
    model, data = build(variant), batch()
    states = model.observe(model.encode(data["frames"]), data["actions"], noise=data["noise"])
    prior = model.rssm.prior(states.deter)
    for k in range(N):
        imagined = model.imagine(states.at(k), data["actions"][:, k : k + 1])
        torch.testing.assert_close(imagined.deter[:, 0], states.deter[:, k + 1])
        torch.testing.assert_close(imagined.log_probs[:, 0], prior[:, k + 1])


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("initial_state", ["learned", "frame"])
@pytest.mark.parametrize("variant", ["default", "authors"])
def test_gradient_reaches_every_parameter_and_every_action(variant, initial_state, objective):
    # Without free nats, below which the KL divergence trains nothing.
    options = {"initial_state": initial_state, "objective": objective, "residual_decoder": True}
    model, data = build(variant, free_nats=0, **options), batch()
    actions = data["actions"].requires_grad_()
    out = model(**data)
    out.loss.backward()
    assert [n for n, g in gradients(model).items() if not g.abs().max() > 0] == []
    assert actions.grad is not None
    assert (actions.grad.abs().sum(-1) > 0).all()  # the first one included
    assert out.reconstruction_loss.shape == out.kl_loss.shape == (B, N)
    torch.testing.assert_close(out.loss, (out.reconstruction_loss + out.kl_loss).mean())
    assert (objective == "imagination") == (out.kl_loss.abs().max().item() == 0)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_action_k_leads_from_frame_k_to_frame_k_plus_1(objective):
    """Exact: which actions the reconstruction of a frame depends on, by its gradient."""
    model, data = build(objective=objective), batch()
    actions = data["actions"].requires_grad_()
    losses = model(**data).reconstruction_loss  # (B, N): column j is about frame j + 1
    for j in range(N):
        (gradient,) = torch.autograd.grad(losses[:, j].sum(), actions, retain_graph=True)
        used = gradient.abs().amax((0, 2)) > 0
        assert used.tolist() == [k <= j for k in range(N)]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_action_changes_the_prediction(objective):
    model, data = build(objective=objective), batch()
    before = model(**data).reconstruction_loss
    for k in range(N):
        actions = data["actions"].clone()
        actions[:, k] = -actions[:, k]
        after = model(**(data | {"actions": actions})).reconstruction_loss
        changed = (after - before).abs().amax(0) > 0
        assert changed.tolist() == [j >= k for j in range(N)]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_padding_does_not_change_the_loss(objective):
    model, data = build(objective=objective), batch()
    is_pad = torch.zeros(B, N + 1, dtype=torch.bool)
    is_pad[0, 2:] = True
    is_pad[1, 4:] = True
    results = []
    for garbage in (0.5, float("nan")):
        frames = data["frames"].float() / 255
        frames[is_pad] = garbage
        model.zero_grad()
        out = model(frames, data["actions"], is_pad, data["noise"])
        out.loss.backward()
        results.append((out, gradients(model)))
    (ours, our_gradients), (theirs, their_gradients) = results
    assert ours.loss == theirs.loss
    for name, gradient in our_gradients.items():
        assert torch.equal(gradient, their_gradients[name]), name
    # Whole and padded videos give the steps that both have the same losses.
    whole = model(**data)
    keep = ~is_pad[:, 1:]
    for name in ("reconstruction_loss", "kl_loss"):
        torch.testing.assert_close(ours[name][keep], whole[name][keep])
        assert (ours[name][~keep] == 0).all()
    expected = (whole.reconstruction_loss + whole.kl_loss)[keep].mean()
    torch.testing.assert_close(ours.loss, expected)


def test_a_batch_of_nothing_but_padding_costs_nothing():
    is_pad = torch.ones(B, N + 1, dtype=torch.bool)
    is_pad[:, 0] = False
    assert build()(**batch(), frame_is_pad=is_pad).loss == 0


def test_decoding_some_steps_estimates_the_whole_loss():
    model, data = build(objective="imagination", num_decoded_steps=2), batch()
    whole = model.eval()(**data).reconstruction_loss  # evaluation decodes every step
    assert (whole > 0).all()
    torch.manual_seed(0)
    model.train()
    draws = torch.stack([model(**data).reconstruction_loss for _ in range(12)])
    decoded = draws[:, 0] > 0  # (12, N)
    assert (decoded.sum(-1) == 2).all()
    assert decoded.any(0).all()
    torch.testing.assert_close(draws[draws > 0], (2 * whole).expand_as(draws)[draws > 0])


def test_evaluation_is_deterministic_and_training_samples():
    model, data = build(), batch()
    del data["noise"]
    assert model(**data).loss != model(**data).loss
    model.eval()
    assert model(**data).loss == model(**data).loss


def test_inputs_are_left_unchanged_and_floats_equal_bytes():
    model, data = build(), batch()
    copies = {name: value.clone() for name, value in data.items()}
    from_bytes = model(**data).loss
    assert all(torch.equal(data[name], copies[name]) for name in data)
    floats = data | {"frames": data["frames"].float() / 255}
    torch.testing.assert_close(model(**floats).loss, from_bytes)
