# SPDX-License-Identifier: Apache-2.0
"""Analyses on data whose answers are known."""

import json

import numpy as np
import pytest
import torch
from analysis_fixtures import ToyWorldModel, toy_clips, toy_policy
from PIL import Image

from lawm_hf.analysis import (
    effective_rank,
    held_out_cca,
    imagination_strip,
    lag_correlation,
    latent_health,
    load_clips,
    ridge_r2,
    saturated_share,
    untrained_copy,
)
from lawm_hf.analysis.figures import _prefer_other_instructions
from lawm_hf.analysis.latents import remove_step_offsets
from lawm_hf.analysis.prediction import latents_of, moving_errors, psnr, swap_partners
from lawm_hf.data import WindowSpec, load
from lawm_hf.envs.tabletop.recorder import record_tabletop
from lawm_hf.envs.tabletop.tasks import get_suite, sample_layout
from lawm_hf.models import (
    BakuConfig,
    BakuPolicy,
    DreamerV3Config,
    DreamerV3WorldModel,
    LAWMProcessor,
)

# --- probes ------------------------------------------------------------------------------------


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def halves(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows[: len(rows) // 2], rows[len(rows) // 2 :]


def test_cca_is_one_for_a_linear_relation_and_near_zero_for_noise(rng):
    z = rng.normal(size=(4000, 7))
    y = z @ rng.normal(size=(7, 3)) + 2
    (z_fit, z_test), (y_fit, y_test) = halves(z), halves(y)
    np.testing.assert_allclose(held_out_cca(z_fit, y_fit, z_test, y_test), [1, 1, 1], atol=1e-3)
    noise_fit, noise_test = halves(rng.normal(size=(4000, 3)))
    assert np.abs(held_out_cca(z_fit, noise_fit, z_test, noise_test)).max() < 0.1


def test_cca_counts_the_shared_directions_and_their_strength(rng):
    shared, z, y = (
        rng.normal(size=(8000, 1)),
        rng.normal(size=(8000, 5)),
        rng.normal(size=(8000, 4)),
    )
    z[:, :1] += shared  # correlation of the two noisy copies: 1 / 2
    y[:, :1] += shared
    (z_fit, z_test), (y_fit, y_test) = halves(z), halves(y)
    found = held_out_cca(z_fit, y_fit, z_test, y_test)
    assert found[0] == pytest.approx(0.5, abs=0.05)
    assert np.abs(found[1:]).max() < 0.08


def test_a_course_over_the_steps_that_all_clips_share_does_not_count(rng):
    course = np.linspace(-1, 1, 10)[None, :, None]
    z, a = rng.normal(size=(2, 400, 10, 3)) * 0.1 + course
    (z_fit, z_test), (a_fit, a_test) = halves(z), halves(a)
    rows = [x.reshape(-1, 3) for x in (z_fit, a_fit, z_test, a_test)]
    assert held_out_cca(*rows)[0] > 0.9
    free = [remove_step_offsets(x, r) for x, r in ((z_fit, z_fit), (a_fit, a_fit), (z_test, z_fit))]
    free = [x.reshape(-1, 3) for x in (*free, remove_step_offsets(a_test, a_fit))]
    assert abs(held_out_cca(*free)[0]) < 0.1


def test_ridge_explains_what_is_there_and_nothing_of_noise(rng):
    x = rng.normal(size=(2000, 30))
    signal = x @ rng.normal(size=(30, 2)) / 30**0.5
    y = signal + rng.normal(size=(2000, 2)) * 0.5  # explainable share: 1 / 1.25
    (x_fit, x_test), (y_fit, y_test) = halves(x), halves(y)
    assert ridge_r2(x_fit, y_fit, x_test, y_test) == pytest.approx(0.8, abs=0.04)
    noise_fit, noise_test = halves(rng.normal(size=(2000, 2)))
    assert abs(ridge_r2(x_fit, noise_fit, x_test, noise_test)) < 0.05


def test_ridge_does_not_overfit_when_columns_outnumber_rows(rng):
    x = rng.normal(size=(80, 200))
    (x_fit, x_test), (y_fit, y_test) = halves(x), halves(rng.normal(size=(80, 1)))
    assert ridge_r2(x_fit, y_fit, x_test, y_test) > -0.3


@pytest.mark.parametrize(
    ("variances", "rank"),
    [
        ([1, 1, 1, 1], 4),
        ([5, 0, 0, 0], 1),
        ([4, 1], np.exp(-(0.8 * np.log(0.8) + 0.2 * np.log(0.2)))),
    ],
)
def test_effective_rank_of_known_spectra(rng, variances, rank):
    rows = rng.normal(size=(20000, len(variances))) * np.sqrt(variances) + 3
    rotation, _ = np.linalg.qr(rng.normal(size=(len(variances),) * 2))
    assert effective_rank(rows @ rotation) == pytest.approx(rank, rel=0.01)


def test_effective_rank_of_constant_rows_is_zero():
    assert effective_rank(np.ones((50, 7))) == 0


def test_saturation_and_smoothness_of_known_latents(rng):
    latents = np.zeros((10, 2, 5))
    latents[:, 0, :3] = -0.99
    assert saturated_share(latents) == pytest.approx(0.3)
    noise = rng.normal(size=(4000, 6, 2))
    smooth = noise.copy()
    for k in range(1, 6):
        smooth[:, k] = 0.8 * smooth[:, k - 1] + 0.6 * noise[:, k]
    assert lag_correlation(smooth) == pytest.approx(0.8, abs=0.02)
    assert lag_correlation(noise) == pytest.approx(0, abs=0.02)


def test_a_swap_uses_each_clip_once_and_never_one_of_the_same_episode():
    episodes = np.array([3, 3, 3, 0, 1, 1, 2, 3, 0, 5])
    for seed in range(20):
        partners = swap_partners(episodes, seed)
        assert sorted(partners) == list(range(10))
        assert (episodes[partners] != episodes).all()
    with pytest.raises(ValueError, match="3 of 5 are of one"):
        swap_partners(np.array([0, 0, 0, 1, 2]))


# --- a toy pair whose truth is known -----------------------------------------------------------


def test_a_pair_that_knows_the_world_is_healthy():
    health = latent_health(
        toy_policy("trained"), ToyWorldModel(), toy_clips(100, 0), toy_clips(150, 1)
    )
    assert health.alarms() == []
    assert health.imagined_error == pytest.approx(0, abs=1e-9)
    assert health.loss == pytest.approx(0, abs=1e-9)
    assert health.effective_rank == pytest.approx(2, abs=0.01)
    assert health.lag_correlation == pytest.approx(1)
    # Mean over k of (0.1 k z)^2, two colours, 16 pixels, z uniform in [-1, 1] with mean square 1/3.
    assert health.copy_error == pytest.approx(11 * 0.01 / 3 * 2 * 16, rel=0.1)
    # The difference of two such velocities has twice the mean square.
    assert health.imagined_error_swapped == pytest.approx(2 * health.copy_error, rel=0.2)
    assert health.loss_swapped == pytest.approx(health.imagined_error_swapped, rel=1e-5)
    trained, shuffled = health.probes["trained"], health.probes["shuffled"]
    assert trained.target_r2 > 0.999
    assert trained.nearest_accuracy == 1
    assert trained.chunk_r2 > 0.999
    assert len(trained.action_cca) == 2
    assert min(trained.action_cca) > 0.99
    assert shuffled.target_r2 < 0.1
    assert shuffled.nearest_accuracy < 0.5
    assert max(map(abs, shuffled.action_cca)) < 0.3
    assert health.probes["untrained"].target_r2 < 0.1


def test_a_world_model_that_ignores_the_latents_is_found_out():
    health = latent_health(toy_policy("trained"), ToyWorldModel(gain=0.0), toy_clips(60, 0))
    assert health.swap_gap == 0
    assert health.loss_swapped == health.loss
    assert health.probes == {}
    alarms = " ".join(health.alarms())
    assert "ignores the latents" in alarms
    assert "has not beaten copying" in alarms
    assert "ALARM" in str(health)


@pytest.mark.parametrize("number", [2, 5, 10])
def test_few_clips_of_a_healthy_pair_raise_no_alarm_and_are_not_called_proof(number):
    for seed in range(8):
        clips = toy_clips(number, seed)
        health = latent_health(toy_policy("trained"), ToyWorldModel(), clips, seed=seed)
        assert health.alarms() == []
        assert "OK" not in str(health)
        assert f"{number} clips tell little: hold out 20" in str(health)


def test_few_clips_show_a_world_model_that_ignores_the_latents():
    health = latent_health(toy_policy("trained"), ToyWorldModel(gain=0.0), toy_clips(4, 0))
    assert any("ignores the latents" in alarm for alarm in health.alarms())


def test_collapsed_and_saturated_latents_are_found_out():
    collapsed = latent_health(toy_policy("collapsed"), ToyWorldModel(), toy_clips(60, 0))
    assert any("collapsed" in alarm for alarm in collapsed.alarms())
    saturated = latent_health(toy_policy("saturated"), ToyWorldModel(), toy_clips(60, 0))
    assert saturated.saturated_share == 1
    assert any("saturate" in alarm for alarm in saturated.alarms())


def test_latents_that_know_no_more_than_untrained_ones_are_found_out():
    health = latent_health(
        toy_policy("untrained"), ToyWorldModel(), toy_clips(60, 0), toy_clips(90, 1)
    )
    assert any("no more of the target" in alarm for alarm in health.alarms())


def test_moving_pixels_are_judged_alone_and_without_padding():
    first = torch.zeros(1, 1, 3, 1, 4)
    targets = first.expand(1, 2, 3, 1, 4).clone()
    targets[0, :, 0, 0, :2] = 0.5  # two of four pixels move, in one channel
    drawn = targets + 0.1
    drawn[..., 2:] = 9  # still pixels do not count
    pad = torch.tensor([[False, False, True]])  # nor does the second frame
    drawn[:, 1] = 9
    error, count = moving_errors(drawn, targets, first, pad)
    assert count == 6
    assert psnr(error, count) == pytest.approx(20, abs=1e-4)
    assert psnr(0.0, 0) is None


def test_padded_frames_do_not_count():
    whole = latent_health(toy_policy("trained"), ToyWorldModel(gain=0.05), toy_clips(60, 0))
    padded = latent_health(toy_policy("trained"), ToyWorldModel(gain=0.05), toy_clips(60, 0, 3))
    # Only steps 1 and 2 of 1 ... 5 remain: mean square 2.5 instead of 11.
    assert padded.copy_error == pytest.approx(whole.copy_error * 2.5 / 11, rel=1e-5)
    assert padded.imagined_error == pytest.approx(whole.imagined_error * 2.5 / 11, rel=1e-5)


def test_health_repeats_is_json_and_leaves_models_as_they_were():
    policy, world_model = toy_policy("trained").train(), ToyWorldModel()
    clips, fit = toy_clips(60, 0), toy_clips(60, 1)
    random_state = torch.get_rng_state()
    first = latent_health(policy, world_model, clips, fit)
    assert (
        json.loads(json.dumps(first.to_dict()))
        == latent_health(policy, world_model, clips, fit).to_dict()
    )
    assert policy.training
    assert world_model.training
    assert torch.equal(torch.get_rng_state(), random_state)


def test_an_untrained_copy_has_fresh_weights_and_a_calibrated_norm():
    policy = toy_policy("untrained")
    policy.read.weight.data.fill_(5)
    clips = toy_clips(90, 0)
    fresh = untrained_copy(policy, clips)
    assert not torch.equal(fresh.read.weight, policy.read.weight)
    latents = latents_of(fresh, clips)
    torch.testing.assert_close(latents.mean((0, 1)), torch.zeros(2), atol=1e-3, rtol=0)
    assert latents.std() > 0.003  # the raw outputs have 1e-3 * 0.06


def test_the_strip_swaps_with_another_instruction_where_there_is_one():
    clips = toy_clips(12, 0)
    clips.tasks = ["red", "red", "red", "blue"] * 3
    partners = swap_partners(clips.episodes)
    _prefer_other_instructions(partners, clips)
    assert all(
        clips.tasks[other] != task for other, task in zip(partners, clips.tasks, strict=True)
    )
    clips.tasks = ["red"] * 12
    unchanged = partners.copy()
    _prefer_other_instructions(partners, clips)
    assert (partners == unchanged).all()


def test_the_strip_shows_every_clip_row_and_step(tmp_path):
    path = imagination_strip(
        toy_policy("trained"), ToyWorldModel(), toy_clips(60, 0), tmp_path / "new/strip.png", 2
    )
    with Image.open(path) as image:
        assert image.width > 500
        assert image.height > 600


# --- the real models on the real tabletop ------------------------------------------------------


@pytest.fixture(scope="module")
def tabletop(tmp_path_factory):
    cache = tmp_path_factory.mktemp("tabletop")
    return record_tabletop("reach", 8, seed=300, cache_dir=cache, num_workers=1)


def test_truth_belongs_to_its_clip(tabletop):
    window = WindowSpec(
        chunk_size=4, image_size=64, with_frames=True, with_actions=True, max_start=0
    )
    clips = load_clips(load(f"lerobot:{tabletop}", window), LAWMProcessor(64, 32), batch_size=3)
    assert len(clips) == len(clips.episodes) == 8
    assert [len(batch["frames"]) for batch in clips.batches] == [3, 3, 2]
    assert clips.truth["actions"].shape == (8, 4, 7)
    colors = list(get_suite("reach").targets)
    for clip, task in enumerate(clips.tasks):
        layout = sample_layout(get_suite("reach"), 300 + clip)
        assert task.split()[-2] == colors[layout.task][0]
        target = clips.truth["target_xy"][clip]
        np.testing.assert_allclose(target, layout.cube_xy[layout.target], atol=2e-3)
        objects = clips.truth["objects_xy"][clip]
        np.testing.assert_allclose(objects[clips.truth["target_index"][clip]], target, atol=1e-6)


def test_the_real_models_are_examined_and_drawn(tabletop, tmp_path):
    window = WindowSpec(
        chunk_size=4, image_size=64, with_frames=True, with_actions=True, max_start=0
    )
    clips = load_clips(load(f"lerobot:{tabletop}", window), LAWMProcessor(64, 32))
    config = BakuConfig.from_preset("tabletop", chunk_size=4, latent_norm="batch")
    torch.manual_seed(0)
    policy = BakuPolicy(config)
    world_model = DreamerV3WorldModel(DreamerV3Config.from_preset("tiny", residual_decoder=True))
    health = latent_health(policy, world_model, clips, clips)
    assert set(health.probes) == {"trained", "untrained", "shuffled"}
    assert health.imagined_error == pytest.approx(health.copy_error, rel=0.2)  # starts as a copy
    assert imagination_strip(policy, world_model, clips, tmp_path / "strip.png", 1).stat().st_size
