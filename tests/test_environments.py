# SPDX-License-Identifier: Apache-2.0
"""Environments of others: evaluated by their gymnasium id, asked for what they have."""

import json
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("gymnasium")
from accelerate.state import AcceleratorState, GradientState, PartialState
from test_recipes import recipe

from lawm_hf import BakuConfig, BakuPolicy, LAWMPolicy, LAWMProcessor
from lawm_hf.arguments import parse_args
from lawm_hf.evaluation.environments import ask_environment
from lawm_hf.evaluation.execution import Execution, save_execution
from lawm_hf.plugins import import_packages

MINE = '''
"""Somebody's environment, out of our tree: move a dot to the side that is named."""

import gymnasium
import numpy as np


class Dot(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}
    task_description = "move right"
    render_mode = "rgb_array"

    def __init__(self, size=24):
        view = gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict(
            {
                "pixels": gymnasium.spaces.Dict({"top": view, "side": view}),
                "agent_pos": gymnasium.spaces.Box(-9, 9, (1,), np.float32),
            }
        )
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.start = self.x = float(self.np_random.uniform(-1, 1))
        return self._observation(), {}

    def step(self, action):
        self.x += float(action[0])
        is_success = self.x > self.start + 2
        return self._observation(), 0.0, is_success, False, {"is_success": is_success}

    def _observation(self):
        view = np.zeros(self.observation_space["pixels"]["top"].shape, np.uint8)
        state = np.array([self.x], np.float32).clip(-9, 9)
        return {"pixels": {"top": view, "side": view}, "agent_pos": state}


class Benchmark(Dot):
    """Two suites, tasks and initial states of its own, one alive at a time."""

    max_alive, num_init_states, alive = 1, 5, None

    def __init__(self, suite="left", task=0):
        super().__init__()
        self.suite, self.num_tasks, self._max_episode_steps = suite, {"left": 2, "up": 3}[suite], 4
        self.task_description = f"{suite} {task}"
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        assert Benchmark.alive in (None, self)
        Benchmark.alive = self
        self.steps, self.init_state = 0, options["init_state"]
        return super().reset(seed=seed)

    def step(self, action):
        self.steps += 1
        observation, _, _, _, _ = super().step(action)
        info = {"is_success": self.init_state > 0}
        return observation, 0.0, False, self.steps == 4, info

    def close(self):
        Benchmark.alive = None


gymnasium.register("mine/Dot-v0", entry_point=Dot, max_episode_steps=12)
gymnasium.register("mine/Endless-v0", entry_point=Dot)
gymnasium.register("mine/Benchmark-v0", entry_point=Benchmark)
'''


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    """A policy for that environment, that was never trained."""
    folder = tmp_path_factory.mktemp("policy")
    options = {"hidden_size": 32, "num_layers": 1, "chunk_size": 3, "image_size": 32}
    model = BakuPolicy(BakuConfig.from_preset("tabletop", state_size=1, action_size=2, **options))
    processor = LAWMProcessor(
        image_size=32, text_encoder="hashing", task_embed_size=model.config.task_embed_size
    )
    statistics = {"min": -1.0, "max": 1.0, "mean": 0.0, "std": 1.0, "q01": -1.0, "q99": 1.0}
    told = {"state": 1, "actions": 2}
    processor.set_statistics(
        {k: {name: torch.full((n,), v) for name, v in statistics.items()} for k, n in told.items()}
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _mine(tmp_path, monkeypatch):
    (tmp_path / "my_package.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    import_packages(["my_package"])


def evaluate(policy: Path, folder: Path, *flags: str) -> list[dict]:
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    module = recipe("evaluate")
    paths = ["--policy", str(policy), "--output_dir", str(folder)]
    module.main(parse_args(module.EvaluateArgs, [*paths, *flags]))
    return [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]


def test_a_registered_environment_is_evaluated_with_no_edit(policy, tmp_path):
    flags = ["--import", "my_package", "--env", "mine/Dot-v0", "--episodes", "3"]
    flags += ["--first_seed", "7", "--env_options", '{"size": 20}', "--videos", "3"]
    episodes = evaluate(policy, tmp_path / "out", *flags)
    assert [e["seed"] for e in episodes] == [7, 8, 9]
    assert {e["task"] for e in episodes} == {"move right"}
    assert all(e["length"] <= 12 for e in episodes)
    settings = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert settings["size"] == settings["image_size"] == 20
    assert sorted(settings["views"]) == ["side", "top"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["episodes"] == 3
    failures = sum(not e["is_success"] for e in episodes)
    assert len(list((tmp_path / "out").glob("videos/*.mp4"))) == failures
    again = evaluate(policy, tmp_path / "out", *flags, "--resume")
    assert again == episodes


def test_a_benchmark_is_asked_for_its_tasks_and_initial_states(policy, tmp_path):
    flags = ["--env", "mine/Benchmark-v0", "--suite", "up", "--trials", "2", "--seeds", "0", "4"]
    episodes = evaluate(policy, tmp_path / "out", *flags)
    assert [e["task"] for e in episodes] == [f"up {task}" for task in (0, 1, 2) for _ in range(4)]
    assert [e["init_state"] for e in episodes] == [0, 1] * 6
    assert [e["seed"] for e in episodes] == [0, 0, 4, 4] * 3
    assert [e["is_success"] for e in episodes] == [False, True] * 6
    chosen = evaluate(policy, tmp_path / "other", *flags[:4], "--task_ids", "2", "--trials", "1")
    assert [(e["task_index"], e["init_state"]) for e in chosen] == [(2, 0)]


def test_the_execution_is_learned_on_other_states_before_any_is_evaluated(policy, tmp_path):
    mine = Path(shutil.copytree(policy, tmp_path / "mine"))
    flags = ["--env", "mine/Benchmark-v0", "--trials", "2", "--tune_execution", "true"]
    flags += ["--tuning_episodes", "6"]
    evaluate(mine, tmp_path / "out", *flags)
    record = json.loads((mine / "execution.json").read_text())
    assert [s["init_state"] for s in record["states"]] == [2, 2, 3, 3, 4, 4]
    assert [c["episodes"] for c in record["candidates"]] == [6, 6, 2][: len(record["candidates"])]
    settings = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert settings["aggregation"] == record["aggregation"] == "none", "all are equal: the simplest"
    tuning = tmp_path / "out" / "tuning"
    played = {f: f.read_text() for f in tuning.glob("*/episodes.jsonl")}
    assert len(played) == len(record["candidates"])
    again = evaluate(mine, tmp_path / "out", *flags, "--resume", "true")
    assert [e["init_state"] for e in again] == [0, 1] * 2
    assert played == {f: f.read_text() for f in played}
    with pytest.raises(ValueError, match=r"got 3 such: \[2, 3, 4\]"):
        evaluate(mine, tmp_path / "all", *flags[:2], "--trials", "5", "--seeds", "9")
    with pytest.raises(ValueError, match="must not be given then, got 'uniform'"):
        evaluate(mine, tmp_path / "all", *flags, "--aggregation", "uniform")


def test_a_chunk_of_one_action_is_not_tuned_since_it_is_executed_in_one_way(
    policy, tmp_path, capsys
):
    config = LAWMPolicy.from_pretrained(policy).config
    config.chunk_size = 1
    mine = tmp_path / "mine"
    BakuPolicy(config).save_pretrained(mine)
    shutil.copy(policy / "processor_config.json", mine)
    flags = ["--env", "mine/Benchmark-v0", "--trials", "5", "--tune_execution", "true"]
    assert len(evaluate(mine, tmp_path / "out", *flags)) == 10
    assert "Nothing to tune" in capsys.readouterr().out
    assert not (tmp_path / "out" / "tuning").exists()
    assert not (mine / "execution.json").exists()


def test_evaluation_follows_the_policys_configuration(policy, tmp_path):
    mine = Path(shutil.copytree(policy, tmp_path / "mine"))
    save_execution(mine, Execution("uniform", 2), {}, {})
    flags = ["--env", "mine/Dot-v0", "--episodes", "1"]
    for own, told in (([], ("uniform", 2)), (["--n_action_steps", "3"], ("uniform", 3))):
        evaluate(mine, tmp_path / "out", *flags, *own)
        settings = json.loads((tmp_path / "out" / "evaluation.json").read_text())
        assert (settings["aggregation"], settings["n_action_steps"]) == told


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--env", "mine/Dott-v0"], "Did you mean `mine/Dot-v0`.*--import my_package"),
        (["--env", "tabeltop"], "Did you mean `tabletop`"),
        (["--env", "mine/Endless-v0"], "max_episode_steps"),
        (["--env", "mine/Dot-v0", "--suite", "reach"], "unexpected keyword argument 'suite'"),
        (["--env", "mine/Dot-v0", "--views", "top", "wrist"], "side, top, got 'wrist'"),
        (["--env", "mine/Dot-v0", "--n_action_steps", "4"], "chunk of 3 actions, got 4"),
        (["--env", "tabletop"], "action has 2 numbers"),
        (["--env", "mine/Benchmark-v0", "--task_ids", "2", "--trials=1"], "0 to 1, got"),
        (["--env", "mine/Benchmark-v0", "--trials", "6"], "within the 5 initial states"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_results_are_touched(
    policy, tmp_path, flags, message
):
    with pytest.raises(ValueError, match=message):
        evaluate(policy, tmp_path / "out", *flags)
    assert not (tmp_path / "out" / "episodes.jsonl").exists()


def test_an_evaluation_of_nothing_is_refused(policy, tmp_path):
    module = recipe("evaluate")
    env = ask_environment("tabletop", BakuConfig.from_preset("tabletop"), {}, [])
    for nothing in ({"episodes": 0}, {"episodes": -3}):
        with pytest.raises(ValueError, match="must play an episode"):
            module.plan(module.EvaluateArgs(**nothing), env)
        flags = [f"--{k}={v}" for k, v in nothing.items()]
        with pytest.raises(SystemExit):
            parse_args(module.EvaluateArgs, flags)


def test_the_tabletop_is_drawn_at_the_policys_size_and_libero_names_are_short():
    config = BakuConfig.from_preset("tabletop", image_size=48)
    env = ask_environment("tabletop", config, {}, [])
    assert (env.id, env.suite, env.image_size) == ("lawm_hf/Tabletop-v0", "reach", 48)
    assert env.views == ["front", "wrist"]
    assert (env.num_tasks, env.num_init_states, env.fps) == (None, None, 10)
    assert env.make().unwrapped.observation_space["pixels"]["front"].shape == (48, 48, 3)
    assert ask_environment("tabletop", config, {"image_size": 64}, ["wrist"]).image_size == 64
