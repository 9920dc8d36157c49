# SPDX-License-Identifier: Apache-2.0
"""How chunks are executed: learned on tuning states, saved with the policy, one for all who act."""

import importlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import lawm_hf
from lawm_hf import BakuConfig, BakuPolicy, LAWMPolicy, LAWMProcessor
from lawm_hf.evaluation.execution import (
    Execution,
    candidates,
    carry_execution,
    check_tunable,
    is_better,
    learn_execution,
    learned_execution,
    save_execution,
)
from lawm_hf.evaluation.results import Trial
from lawm_hf.evaluation.rollout import ChunkAggregator, rollout
from lawm_hf.evaluation.trials import (
    benchmark_trials,
    check_apart,
    describe_record,
    seeded_trials,
    tuning_trials,
)
from lawm_hf.hub import write_card
from lawm_hf.models.auto_lawm import new_policy
from lawm_hf.writing import atomic

rollout_module = importlib.import_module("lawm_hf.evaluation.rollout")
TABLETOP = SimpleNamespace(
    id="lawm_hf/Tabletop-v0", suite="reach", num_tasks=None, num_init_states=None
)
LIBERO = SimpleNamespace(
    id="lawm_hf/Libero-v0", suite="libero_object", num_tasks=10, num_init_states=50
)
NONE, BLIND, UNIFORM, EXPONENTIAL = candidates(10)


class Track:
    """Solved if the actions stay within 0.2 of 0.5, but for the first."""

    task_description = "hold"

    def reset(self, seed=None, options=None):
        self.step_number, self.off = 0, 0
        return {"seed": seed}, {}

    def step(self, action):
        self.off += self.step_number > 0 and abs(action[0] - 0.5) > 0.2
        self.step_number += 1
        return {"seed": 0}, 0.0, False, self.step_number == 20, {"is_success": self.off == 0}

    def close(self):
        pass


def play_with(error, monkeypatch):
    """A policy whose chunk number t is wrong by `error(t)`, in each of its actions."""
    config = SimpleNamespace(chunk_size=10, action_size=1, aggregation="none", n_action_steps=1)
    policy = SimpleNamespace(config=config, eval=lambda: None)

    def play(execution, trials):
        calls = iter(range(10**6))

        def predict(policy, processor, observations, tasks, views):
            shape = (len(observations), 10, 1)
            return np.full(shape, 0.5 + error(next(calls) % 20))

        monkeypatch.setattr(rollout_module, "predict", predict)
        told = (execution.aggregation, execution.n_action_steps)
        played = rollout(policy, None, Track, trials, [], *told, lockstep=1)
        return [result.is_success for result in played]

    return play


def test_a_policy_that_is_right_on_average_gets_averaged_chunks(monkeypatch):
    """Each of its chunks is wrong, now to this side and now to the other."""
    play = play_with(lambda t: 0.4 * (-1) ** t, monkeypatch)
    chosen, solved = learn_execution(candidates(10), [Trial(s) for s in range(6)], play)
    assert chosen == UNIFORM, "the weighted average is as good, and less simple"
    assert sum(solved[UNIFORM]) == sum(solved[EXPONENTIAL]) == 6
    assert not any(solved[NONE] + solved[BLIND])


def test_a_policy_that_corrects_itself_gets_fresh_chunks(monkeypatch):
    """An average remembers the chunks of before a turn."""
    play = play_with(lambda t: 0.0 if t > 4 or not t else 3.0, monkeypatch)

    class Late(Track):
        def step(self, action):
            self.off *= self.step_number > 5  # What counts comes after the turn.
            return super().step(action)

    monkeypatch.setattr(f"{__name__}.Track", Late)
    chosen, solved = learn_execution(candidates(10), [Trial(s) for s in range(6)], play)
    assert chosen == NONE
    assert not any(solved[UNIFORM])


@pytest.mark.parametrize(
    ("one", "other", "better"),
    [
        ([1, 1, 1, 0], [0, 0, 0, 0], True),  # three coins fall alike one time in eight
        ([1, 1, 0, 0], [0, 0, 0, 0], False),  # two do so too often
        ([1, 1, 1, 1, 0], [0, 0, 0, 0, 1], False),
        ([1] * 9 + [0], [0] * 4 + [1] * 6, False),
        ([1] * 10, [0] * 4 + [1] * 6, True),
        ([0, 0, 0], [1, 1, 1], False),
    ],
)
def test_a_near_tie_goes_to_the_simpler(one, other, better):
    assert is_better(one, other) == better

    def play(execution, trials):
        solved = other if execution == NONE else one
        return [bool(solved[trial.seed]) for trial in trials]

    chosen, _ = learn_execution([NONE, UNIFORM], [Trial(s) for s in range(len(one))], play)
    assert chosen == (UNIFORM if better else NONE)


def test_half_of_the_candidates_go_on_and_all_have_played_the_same_states():
    played = []

    def play(execution, trials):
        played.append((execution, trials))
        return [execution in (BLIND, EXPONENTIAL)] * len(trials)

    states = [Trial(0, "s", task, state) for state in range(4) for task in (0, 1, 2)]
    chosen, solved = learn_execution(candidates(10), states, play)
    assert [len(solved[e]) for e in candidates(10)] == [4, 12, 4, 12]
    assert chosen == BLIND
    assert all(len({trial.task_index for trial in trials}) == 1 for _, trials in played)
    seen = [trial for execution, trials in played if execution == BLIND for trial in trials]
    assert sorted(seen, key=states.index) == states


@pytest.mark.parametrize(
    ("env", "trials"),
    [
        (TABLETOP, seeded_trials(TABLETOP, [], 0, 200)),
        (LIBERO, benchmark_trials(LIBERO, [], 0, 10, [0])),
        (LIBERO, benchmark_trials(LIBERO, [0, 3, 4], 0, 20, [0, 1])),
        (LIBERO, benchmark_trials(LIBERO, [2], 5, 1, [7])),
    ],
)
def test_no_tuning_state_is_evaluated(env, trials):
    states = tuning_trials(env, trials, 30, None)
    assert len(states) >= 30
    assert {t.task_index for t in states} == {t.task_index for t in trials}

    def start(trial):
        return trial.task_index, trial.seed if env is TABLETOP else trial.init_state

    assert not {*map(start, states)} & {*map(start, trials)}
    recorded = 100_000 if env is TABLETOP else 50
    assert max(start(trial)[1] for trial in states) < recorded


def test_by_default_liberos_tuning_states_are_10_to_19_where_nothing_is_recorded():
    trials = benchmark_trials(LIBERO, [0, 1, 2], 0, 10, [0])
    assert {t.init_state for t in tuning_trials(LIBERO, trials, 30, None)} == {*range(10, 20)}
    assert {t.seed for t in tuning_trials(TABLETOP, [Trial(0)], 3, None)} == {5000, 5001, 5002}


@pytest.mark.parametrize(
    ("env", "trials", "first", "message"),
    [
        (LIBERO, benchmark_trials(LIBERO, [0], 0, 50, [0]), None, "50 to 52.*beyond the last, 49"),
        (LIBERO, benchmark_trials(LIBERO, [0], 0, 10, [0]), 8, "8 to 10.*some are evaluated"),
        (TABLETOP, seeded_trials(TABLETOP, [], 4000, 2000), None, "5000 to 5002.*are evaluated"),
        (TABLETOP, seeded_trials(TABLETOP, [], 0, 200), 0, "0 to 2.*are evaluated"),
        (TABLETOP, seeded_trials(TABLETOP, [], 0, 9), 99_998, "below 100000, .*99998 to 100000"),
    ],
)
def test_tuning_on_what_is_evaluated_is_refused(env, trials, first, message):
    with pytest.raises(ValueError, match=message):
        tuning_trials(env, trials, 3, first)


def test_tasks_are_not_chosen_where_seeds_draw_them():
    with pytest.raises(ValueError, match=r"got \[0\] and lawm_hf/Tabletop-v0.*Leave them out"):
        seeded_trials(TABLETOP, [0], 0, 2)


def learned(states, env="tabletop", suite="reach"):
    told = [
        {"seed": t.seed, "task_index": t.task_index, "init_state": t.init_state} for t in states
    ]
    return {"env": env, "suite": suite, "states": told}


@pytest.mark.parametrize(
    ("env", "first", "name"),
    [
        (TABLETOP, seeded_trials(TABLETOP, [], 5000, 6), "tabletop"),
        (TABLETOP, seeded_trials(TABLETOP, [], 5000, 6), "lawm_hf/Tabletop-v0"),
        (LIBERO, benchmark_trials(LIBERO, [3], 0, 1, [0]), "libero"),
    ],
)
def test_nothing_is_evaluated_where_the_execution_was_learned_before(env, first, name):
    """Whatever else has changed: the name of the environment, the seed, the number of episodes."""
    record = learned(first, name, env.suite)
    if env is TABLETOP:
        tried = seeded_trials(TABLETOP, [], 4990, 11)
        apart = seeded_trials(TABLETOP, [], 0, 5000)
    else:
        tried = benchmark_trials(LIBERO, [], 0, 50, [7])
        apart = benchmark_trials(LIBERO, [0, 1, 2, 4], 0, 50, [0])
    with pytest.raises(ValueError, match="not be those on which the policy's execution was learn"):
        check_apart(record, env, tried)
    check_apart(record, env, apart)
    check_apart(record | {"suite": "other"}, env, tried)
    check_apart({}, env, tried)
    assert describe_record(record, env) == f"learned on {len(first)} other states"
    assert "states of other" in describe_record(record | {"suite": "other"}, env)


def test_what_cannot_be_saved_is_not_learned(tmp_path, monkeypatch):
    commit = tmp_path / "models--me--policy" / "snapshots" / "0123"
    commit.mkdir(parents=True)
    (tmp_path / "link").symlink_to(commit)
    for folder, message in (
        ("me/policy", "must be one, got 'me/policy'.*hf download me/policy --local-dir"),
        (str(commit), "got the Hub's cache.*cp -rL"),
        (str(tmp_path / "link"), "got the Hub's cache"),
    ):
        with pytest.raises(ValueError, match=message):
            check_tunable(folder, None, None)
    assert not [*commit.iterdir()]
    check_tunable(str(tmp_path), None, None)
    assert [f.name for f in tmp_path.iterdir() if f.is_file()] == []

    def refuse(path, content):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(atomic, "write_bytes_atomic", refuse)
    with pytest.raises(PermissionError, match=f"{tmp_path} must be .* 'Permission denied'"):
        check_tunable(str(tmp_path), None, None)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_fewer_states_than_could_decide_are_refused(number):
    with pytest.raises(ValueError, match=f"at least 3 episodes, got {number}"):
        learn_execution(candidates(10), [Trial(s) for s in range(number)], None)


def test_what_was_learned_is_forgotten_with_the_weights_and_not_before(tmp_path):
    folder = small_policy(tmp_path / "policy")
    told = {"policy_fingerprint": "abc", "states": [{"seed": 1}]}
    save_execution(folder, UNIFORM, {UNIFORM: [True]}, told)
    played = {"aggregation": "uniform", "n_action_steps": 1, "policy_fingerprint": "abc"}
    assert learned_execution(str(folder), played)["states"] == [{"seed": 1}]
    assert not learned_execution(str(folder), played | {"policy_fingerprint": "other"})
    assert not learned_execution(str(folder), played | {"aggregation": "none"})
    config = BakuConfig.from_preset("tabletop")
    carry_execution(folder, config, is_trained=False)  # a finished run, resumed
    assert (config.aggregation, config.n_action_steps) == ("uniform", 1)
    assert new_policy(str(folder)).config.aggregation == "none", "another policy begins with these"
    config = BakuConfig.from_preset("tabletop")
    (folder / "policy.onnx").touch()
    with pytest.warns(UserWarning, match="policy.onnx.*export it again"):
        carry_execution(folder, config, is_trained=True)
    assert config.aggregation == "none"
    assert not (folder / "execution.json").exists()


def test_a_policy_says_on_its_card_what_was_learned_before_it_is_evaluated(tmp_path):
    folder = tmp_path / "policy"
    shutil.copytree(Path(lawm_hf.__file__).parent / "assets/tabletop/finetune", folder)
    save_execution(folder, UNIFORM, {}, learned([Trial(s) for s in range(12)]))
    assert "by `uniform, 1`" in (card := str(write_card(folder)))
    assert "learned on 12 states of `reach`" in card


def small_policy(folder: Path, **options) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_layers": 1, "image_size": 32, "task_embed_size": 64}
    BakuPolicy(BakuConfig.from_preset("tabletop", **sizes, **options)).save_pretrained(folder)
    processor = LAWMProcessor(image_size=32, task_embed_size=64)
    statistics = {"state": {"min": -np.ones(8), "max": np.ones(8)}}
    statistics["actions"] = {"min": -np.ones(7), "max": np.ones(7)}
    processor.set_statistics(statistics)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("execution", [Execution("uniform", 1), Execution("exponential", 2)])
def test_lerobot_and_our_rollout_act_alike_from_the_saved_configuration(tmp_path, execution):
    pytest.importorskip("lerobot")
    from lawm_hf.hub.lerobot_export import export_for_lerobot
    from lawm_hf.lerobot.modeling_lawm import LeRobotLAWMPolicy

    folder = small_policy(tmp_path / "policy")
    export_for_lerobot(folder, ["front", "wrist"])
    save_execution(folder, execution, {execution: [True]}, {"env": "tabletop"})
    generator, executed = np.random.default_rng(0), []
    frames = generator.integers(0, 256, (6, 2, 32, 32, 3), dtype=np.uint8)

    class Film(Track):
        def reset(self, seed=None, options=None):
            super().reset()
            return self.observation(), {}

        def observation(self):
            seen = dict(zip(("front", "wrist"), frames[self.step_number], strict=True))
            return {"pixels": seen, "agent_pos": np.full(8, 0.1 * self.step_number, np.float32)}

        def step(self, action):
            executed.append(action)
            self.step_number += 1
            is_over = self.step_number == 5
            return self.observation(), 0.0, False, is_over, {"is_success": False}

    policy, processor = LAWMPolicy.from_pretrained(folder), LAWMProcessor.from_pretrained(folder)
    rollout(policy, processor, Film, [Trial(0)], ["front", "wrist"])
    theirs = LeRobotLAWMPolicy.from_pretrained(folder)
    assert theirs.config.aggregation == execution.aggregation
    for step, action in enumerate(executed):
        views = torch.from_numpy(frames[step]).permute(0, 3, 1, 2)[:, None] / 255
        batch = {
            "observation.images.front": views[0],
            "observation.images.wrist": views[1],
            "observation.state": torch.full((1, 8), 0.1 * step),
            "task": ["hold"],
        }
        told = theirs.select_action(batch)[0].clamp(-1, 1).numpy()
        np.testing.assert_allclose(told, action, atol=1e-5)


def test_a_checkpoint_from_before_acts_as_before(tmp_path):
    folder = small_policy(tmp_path / "policy")
    config = json.loads((folder / "config.json").read_text())
    assert (config.pop("aggregation"), config.pop("n_action_steps")) == ("none", 1)
    (folder / "config.json").write_text(json.dumps(config))
    loaded = LAWMPolicy.from_pretrained(folder).config
    assert (loaded.aggregation, loaded.n_action_steps) == ("none", 1)
    lerobots = {"aggregation": "uniform", "n_action_steps": 2}  # LeRobot has always saved them.
    (folder / "config.json").write_text(json.dumps(config | lerobots))
    loaded = LAWMPolicy.from_pretrained(folder).config
    assert (loaded.aggregation, loaded.n_action_steps) == ("uniform", 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n_action_steps": 11}, "chunk_size"), ({"aggregation": "mean"}, "aggregation")],
)
def test_a_configuration_that_cannot_be_executed_is_refused(options, message):
    with pytest.raises(Exception, match=message):
        BakuConfig.from_preset("tabletop", **options)


def test_what_is_saved_says_how_it_was_found_and_keeps_the_other_options(tmp_path):
    folder = small_policy(tmp_path / "policy", chunk_size=6)
    before = json.loads((folder / "config.json").read_text())
    solved = {NONE: [True, False], UNIFORM: [True, True]}
    save_execution(folder, UNIFORM, solved, {"env": "libero"})
    config = json.loads((folder / "config.json").read_text())
    assert config == before | {"aggregation": "uniform", "n_action_steps": 1}
    record = json.loads((folder / "execution.json").read_text())
    assert record["env"] == "libero"
    assert [(c["successes"], c["episodes"]) for c in record["candidates"]] == [(1, 2), (2, 2)]
    from lawm_hf.hub.push import _results

    assert folder / "execution.json" in _results(folder, with_frames=False)


def test_blind_steps_and_averages_need_a_chunk_that_has_them():
    assert candidates(1) == [NONE]
    for chunk_size in (2, 3, 10):
        for execution in candidates(chunk_size):
            ChunkAggregator(execution.aggregation, execution.n_action_steps).check(chunk_size)
