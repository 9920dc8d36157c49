# SPDX-License-Identifier: Apache-2.0
"""Correlations by verb, probes, composition, retrieval and traversal, where the truth is known."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from analysis_fixtures import N, ToyWorldModel, toy_clips, toy_policy
from PIL import Image

from lawm_hf.analysis import (
    Split,
    action_probes,
    cca_by_verb,
    composition,
    input_effects,
    latent_study,
    mlp_predict,
    neighbour_gallery,
    neighbours,
    principal_directions,
    retrieval,
    ridge_predict,
    study_markdown,
    traversal_figures,
    verb_of,
)
from lawm_hf.analysis.prediction import latents_of
from lawm_hf.analysis.probes import probe_cases
from lawm_hf.analysis.traversal import traverse
from lawm_hf.models.modeling_outputs import PolicyOutput


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("instruction", "verb"),
    [
        ("Putting [something] onto [something]", "put"),
        ("Moving cup and book closer to each other", "move"),
        ("Removing a lid, revealing a pen behind", "remove"),
        ("Taking one of many pens on the table", "take"),
        ("Closing a box", "close"),
        ("Squeezing a sponge", "squeeze"),
        ("Opening a drawer", "open"),
        ("Dropping a pen", "drop"),
        ("Spilling water", "spill"),
        ("Sprinkling salt", "sprinkle"),
        ("Showing a cup", "show"),
        ("Laying a pen down", "lay"),
        ("Picking a cup up", "pick"),
        ("pick up the black bowl", "pick up"),
        ("put the wine bottle on the rack", "put"),
        ("put down the bowl", "put"),
        ("turn on the stove", "turn on"),
        ("go to the red cube", "go to"),
        ("bring the mug", "bring"),
        ("", "(none)"),
    ],
)
def test_the_verb_of_an_instruction(instruction, verb):
    assert verb_of(instruction) == verb


def split(rng: np.random.Generator, tasks: list[str], is_related: np.ndarray) -> Split:
    """Latents that equal the actions for some clips, and noise for an untrained policy."""
    actions, noise, untrained = rng.normal(size=(3, len(tasks), 6, 3))
    trained = np.where(is_related[:, None, None], actions, noise)
    return Split(trained, untrained, np.concatenate([actions, 0 * actions[..., :1]], -1), tasks)


def test_each_verb_has_its_own_correlation_and_the_floors_are_low(rng):
    tasks = ["put it there", "Moving it"] * 60 + ["take it"] * 7
    is_related = np.array([task == "put it there" for task in tasks])
    table, left_out = cca_by_verb(split(rng, tasks, is_related), split(rng, tasks, is_related))
    rows = {row.verb: row for row in table}
    assert list(rows) == ["all", "move", "put"]
    assert left_out == {"take": (7, 7)}
    np.testing.assert_allclose(rows["put"].held_out, 1, atol=1e-3)
    assert max(np.abs(rows["move"].held_out)) < 0.15
    assert 0.2 < rows["all"].held_out[0] < 0.8
    for row in table:
        assert len(row.held_out) == len(row.permuted_p95) == 3  # the dimension that is not used
        assert abs(row.permuted_mean[0]) < 0.1
        assert row.permuted_mean[0] < row.permuted_p95[0] < 0.25
        assert row.untrained[0] < 0.25


def test_the_in_sample_figure_flatters_latents_of_noise(rng):
    few = split(rng, ["put"] * 15, np.zeros(15, bool))
    more = split(rng, ["put"] * 400, np.zeros(400, bool))
    row = cca_by_verb(more, few)[0][0]
    assert min(row.in_sample, row.in_sample_untrained) > 0.15
    assert abs(row.permuted_mean[0]) < 0.1


def test_the_mlp_reads_what_is_not_linear(rng):
    x = rng.normal(size=(3000, 2))
    y = x[:, :1] * x[:, 1:] * 5 + 100
    (x_fit, x_test), (y_fit, y_test) = np.split(x, 2), np.split(y, 2)
    spread = y_test.var()
    assert np.square(mlp_predict(x_fit, y_fit, x_test) - y_test).mean() < 0.1 * spread
    assert np.square(ridge_predict(x_fit, y_fit, x_test) - y_test).mean() > 0.9 * spread


def test_action_probes_tell_the_dimensions_apart_and_fail_on_shuffled_truth(rng):
    z = rng.normal(size=(2, 600, 4, 3))
    course = np.linspace(0, 9, 4)[:, None]  # the same for all clips: explains nothing of a clip
    actions = np.stack([z[..., 0], rng.normal(size=z.shape[:3]), 0 * z[..., 0]], -1) + course
    noise = rng.normal(size=z.shape)
    truths = ({"actions": actions[0]}, {"actions": actions[1]})
    truths[0]["actions"][..., 2] = truths[1]["actions"][..., 2] = 1  # never used
    found = action_probes(probe_cases(tuple(z), tuple(noise), truths))
    for name in ("ridge", "mlp"):
        assert len(found[name]["trained"]) == 2
        assert found[name]["trained"][0] > 0.8
        assert found[name]["trained"][1] < 0.1
        assert max(found[name]["untrained"] + found[name]["shuffled"]) < 0.1


def test_latents_that_act_alike_everywhere_compose(rng):
    found = composition(toy_policy("trained"), ToyWorldModel(), toy_clips(60, 0))
    assert found.num_clips == 60
    assert found.whole_error == pytest.approx(0, abs=1e-6)
    assert found.halves_error == pytest.approx(0, abs=1e-6)
    assert found.relooked_error == pytest.approx(0, abs=1e-6)
    assert found.halves_swapped_error > 0.3 * found.copy_error > 0
    assert found.agreement == pytest.approx(1)
    assert abs(found.agreement_permuted) < 0.1
    assert found.agreement_permuted_p95 < 0.4
    # The toy's view of x_{t+N} shows the velocity of the video played backwards.
    assert found.forward_gain == pytest.approx(1)
    assert found.reversed_gain == pytest.approx(1)


def test_a_policy_that_knows_only_the_forward_direction_is_worse_backwards():
    clips = toy_clips(60, 0)
    clips.later[N] = clips.batches  # the look at the end still says: forwards
    found = composition(toy_policy("trained"), ToyWorldModel(), clips)
    assert found.forward_gain == pytest.approx(1)
    assert found.reversed_gain < -1


def test_latents_that_only_continue_their_own_beginning_do_not_compose():
    sign = torch.ones(N, 1)
    sign[N // 2 :] = -1

    class Turning(ToyWorldModel):
        """Halfway through a roll-out, the sign of the latents turns."""

        def predict_frames(self, first_frame, actions):
            return super().predict_frames(first_frame, actions * sign[: actions.shape[1]])

    policy = toy_policy("trained")
    policy.register_forward_hook(lambda *args: PolicyOutput(actions=args[-1].actions * sign))
    found = composition(policy, Turning(), toy_clips(60, 0))
    assert found.whole_error == pytest.approx(0, abs=1e-6)
    assert found.halves_error > 0.3 * found.copy_error
    assert found.agreement < -0.2


def test_clips_that_end_early_or_have_several_views_are_left_out_of_composition():
    clips = toy_clips(60, 0, pad_from=3)
    assert composition(toy_policy("trained"), ToyWorldModel(), clips) is None
    clips = toy_clips(60, 0)
    clips.later = {}
    assert composition(toy_policy("trained"), ToyWorldModel(), clips) is None


def test_effects_split_the_variance_between_image_and_instruction():
    clips, policy = toy_clips(300, 0), toy_policy("trained")
    assert input_effects(policy, clips, latents_of(policy, clips)) == (
        pytest.approx(1, abs=0.1),
        pytest.approx(0, abs=1e-9),
    )
    few = [toy_clips(3, seed) for seed in range(50)]
    shares = [input_effects(policy, clips, latents_of(policy, clips))[0] for clips in few]
    assert np.mean(shares) == pytest.approx(1, abs=0.1)  # of three clips, too


def test_neighbours_are_of_other_episodes_and_the_most_alike(rng):
    z = rng.normal(size=(50, 2, 3))
    z = np.concatenate([z, z + 1e-3, z + 1e-2])
    episodes = np.concatenate([np.arange(50), np.arange(50), np.arange(50, 100)])
    nearest, cosines = neighbours(z, episodes, count=2)
    assert (nearest[:50, 0] == np.arange(100, 150)).all()  # not its copy of the same episode
    assert (episodes[nearest] != episodes[:, None]).all()
    assert (cosines[:50, 0] > 0.999).all()
    assert (np.diff(cosines) <= 0).all()


def test_retrieval_finds_motion_where_the_latents_hold_it_and_chance_elsewhere(rng):
    actions = rng.normal(size=(200, 5, 2)).cumsum(1)
    tasks, episodes = ["a", "b", "b", "b"] * 50, np.arange(200)
    good = retrieval(actions * [3, 0.1] + 7, episodes, tasks, actions)
    assert good.motion_correlation > 0.7
    assert good.same_instruction_chance == pytest.approx(10 / 16, abs=0.01)
    noise = retrieval(rng.normal(size=(200, 5, 2)), episodes, tasks, actions)
    assert noise.motion_correlation == pytest.approx(noise.motion_correlation_chance, abs=0.1)
    assert noise.same_instruction == pytest.approx(10 / 16, abs=0.12)
    assert retrieval(actions, episodes, tasks).motion_correlation is None


def test_a_traversal_moves_along_the_widest_direction_and_through_the_average(rng):
    size = rng.normal(size=(2000, 1, 1)) * np.array([0.2, 0.0])  # along the first action only
    latents = 0.1 + np.broadcast_to(size, (2000, N, 2))
    directions = principal_directions(latents)
    assert directions.shares[0] == pytest.approx(1)
    assert directions.deviations[0] == pytest.approx(0.2 * N**0.5, rel=0.05)
    first = toy_clips(4, 0).frames[0, 0]
    values = np.array([-1.0, 0.0, 1.0])
    pictures = traverse(ToyWorldModel(), first, directions, values, N)[0]  # (T, H, W, C)
    moved = pictures.mean((1, 2)) - first.mean((1, 2)).numpy()
    np.testing.assert_allclose(moved[1, :2], 0.1 * 0.1 * N, atol=5e-3)
    assert abs(moved[2, 0] - moved[0, 0]) == pytest.approx(2 * 0.2 * 0.1 * N, rel=0.1)
    assert moved[2, 1] == pytest.approx(moved[0, 1], abs=1e-4)


def test_a_study_holds_everything_is_json_and_reads_as_words(tmp_path):
    clips, fit = toy_clips(60, 0), toy_clips(90, 1)
    study = latent_study(toy_policy("trained"), ToyWorldModel(), clips, fit)
    record = json.loads(json.dumps(study.to_dict()))
    assert record["health"]["alarms"] == []
    assert record["verbs"][1]["verb"] == "push"
    assert record["verbs"][0]["held_out"][0] > 0.99
    assert record["retrieval"]["trained"]["motion_correlation"] > 0.9
    assert min(record["action_probes"]["ridge"]["trained"]) > 0.99
    text = study_markdown(study, "A toy.", {"A picture": tmp_path / "some.png"})
    assert "No alarms." in text
    assert "| push | 90 / 60 | 1.00" in text
    assert "put 0.9154 (0.7863)" in text
    assert "![A picture](some.png)" in text


def test_a_study_without_actions_says_what_it_did_not_measure():
    clips = toy_clips(60, 0)
    clips.truth, clips.later = {}, {}
    study = latent_study(toy_policy("trained"), ToyWorldModel(gain=0.0), clips)
    text = study_markdown(study, "A toy.", {})
    assert "Not measured: the clips have no actions." in text
    assert "Not measured: this needs clips of one view" in text
    assert "**ALARM** The world model ignores the latents" in text


def test_the_pictures_show_what_they_promise(tmp_path):
    clips = toy_clips(30, 0)
    latents = latents_of(toy_policy("trained"), clips).numpy()
    strip, sweep = traversal_figures(ToyWorldModel(), clips, latents, tmp_path / "new")
    gallery = neighbour_gallery(clips, latents, tmp_path / "new/neighbours.png", num_queries=4)
    for path in (strip, Path(gallery)):
        with Image.open(path) as image:
            assert image.width > 500
    with Image.open(sweep) as image:
        assert image.n_frames == 32
        first = np.asarray(image.convert("RGB")).astype(float)
        image.seek(16)
        assert np.abs(np.asarray(image.convert("RGB")) - first).mean() > 0.5
