# SPDX-License-Identifier: Apache-2.0
"""The tabletop as LeRobot's environment and robot, the guards, and the plug-in's name."""

import json
import math
import shutil
import signal
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lerobot")
pytest.importorskip("mujoco")

import gymnasium
from lerobot.configs import FeatureType
from lerobot.datasets import LeRobotDataset
from lerobot.envs import env_to_policy_features, make_env, make_env_config, preprocess_observation
from lerobot.envs.utils import NEW_ROLLOUT_OPTION
from lerobot.robots import make_robot_from_config
from lerobot.scripts.lerobot_eval import rollout
from lerobot.utils.feature_utils import build_dataset_frame, hw_to_dataset_features

import lawm_hf.envs
from lawm_hf import BakuConfig
from lawm_hf.envs import ScriptedExpert, record_tabletop
from lawm_hf.evaluation.environments import ask_environment
from lawm_hf.evaluation.rollout import EpisodeResult
from lawm_hf.lerobot import ReplayRobotConfig, SafeArmConfig, TabletopRobotConfig
from lawm_hf.lerobot.robot_tabletop import ACTION_KEYS, STATE_KEYS

RED = "go to the red cube"
START = {NEW_ROLLOUT_OPTION: True}  # What LeRobot's rollout passes.


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return record_tabletop("reach", 4, cache_dir=tmp_path_factory.mktemp("tabletop"), num_workers=1)


def make_robot(**kwargs):
    robot = make_robot_from_config(TabletopRobotConfig(**kwargs))
    robot.connect()
    return robot


def expert_action(robot):
    return dict(zip(ACTION_KEYS, ScriptedExpert(robot._env.world).action(), strict=True))


def motors(robot):
    return {k: v for k, v in robot.get_observation().items() if k in STATE_KEYS}


def test_the_environment_has_the_names_and_shapes_of_a_recorded_data_set(recording):
    config = make_env_config("lawm_tabletop", task="reach")
    features = env_to_policy_features(config)
    recorded = LeRobotDataset("tabletop/reach", root=recording)
    for key, feature in features.items():
        assert recorded[0][key].shape == feature.shape, key
    (vector,) = make_env(config, n_envs=2)["reach"].values()
    observation, _ = vector.reset(seed=[0, 1], options=START)
    observation = preprocess_observation(observation)
    assert {k for k, f in features.items() if f.type is not FeatureType.ACTION} == set(observation)
    assert observation["observation.images.wrist"].shape == (2, 3, 64, 64)
    assert observation["observation.state"].shape == (2, 8)


@pytest.mark.parametrize("n_envs", [1, 2])
def test_a_seed_is_the_same_episode_as_in_our_own_evaluation(n_envs):
    config = make_env_config("lawm_tabletop", task="place2", image_size=32)
    (vector,) = make_env(config, n_envs=n_envs)["place2"].values()
    seeds = list(range(3, 3 + n_envs))
    observation, _ = vector.reset(seed=seeds, options=START)
    for i, seed in enumerate(seeds):
        ours = gymnasium.make("lawm_hf/Tabletop-v0", suite="place2", image_size=32)
        expected, _ = ours.reset(seed=seed)
        assert (observation["pixels"]["front"][i] == expected["pixels"]["front"]).all()
        assert (observation["agent_pos"][i] == expected["agent_pos"]).all()
        assert vector.call("task_description")[i] == ours.unwrapped.task_description
        assert vector.call("_max_episode_steps")[i] == ours.unwrapped._max_episode_steps


def test_in_a_batch_a_finished_episode_waits_for_the_others_and_stays_a_success():
    config = make_env_config("lawm_tabletop", task="reach", image_size=16)
    (vector,) = make_env(config, n_envs=2)["reach"].values()
    vector.reset(seed=[0, 1], options=START)
    worlds = [env.unwrapped.world for env in vector.envs]
    idle, is_over, rewards = np.zeros(7), np.zeros(2, bool), np.zeros(2)
    for _ in range(20):
        actions = np.stack([ScriptedExpert(worlds[0]).action(), idle]).astype(np.float32)
        _, reward, terminated, truncated, info = vector.step(actions)
        is_over, rewards = is_over | terminated | truncated, rewards + reward
        assert info["is_success"].tolist() == [bool(is_over[0]), False]
    assert is_over.all()
    assert rewards.tolist() == [1, 0]
    vector.reset(seed=[2, 3], options=START)
    assert [world.layout.task for world in worlds] == [2, 3]


STRANGER = """
import gymnasium
import numpy as np


class Corridor(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}
    task_description = "go right"

    def __init__(self, length=3, says_so=True, render_mode=None):
        self.length, self.says_so, self.render_mode = length, says_so, render_mode
        self._max_episode_steps = 2 * length
        view = gymnasium.spaces.Box(0, 255, (24, 24, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict({
            "pixels": gymnasium.spaces.Dict({"top": view}),
            "agent_pos": gymnasium.spaces.Box(-9, 9, (1,), np.float32),
        })
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def see(self):
        view = np.full((24, 24, 3), 10 * abs(self.x), np.uint8)
        return {"pixels": {"top": view}, "agent_pos": np.array([self.x], np.float32)}

    def render(self):
        return self.see()["pixels"]["top"]

    def reset(self, *, seed=None, options=None):
        self.x = self.steps = 0
        return self.see(), {}

    def step(self, action):
        self.x, self.steps = self.x + int(np.sign(action[0])), self.steps + 1
        done = self.x >= self.length
        info = {"is_success": done} if self.says_so else {}
        return self.see(), float(done), done, self.steps >= self._max_episode_steps, info


gymnasium.register("stranger/Corridor-v0", entry_point="stranger_env:Corridor")
"""


def test_lerobot_plays_an_environment_of_another_package(tmp_path, monkeypatch):
    (tmp_path / "stranger_env.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(tmp_path)
    options = {"gym_id": "stranger_env:stranger/Corridor-v0", "gym_options": {"length": 2}}
    config = make_env_config("lawm_gym", **options)
    features = env_to_policy_features(config)
    assert {key: feature.shape for key, feature in features.items()} == {
        "observation.images.top": (3, 24, 24),
        "observation.state": (1,),
        "action": (1,),
    }
    (vector,) = make_env(config, n_envs=2)["Corridor-v0"].values()
    assert vector.unwrapped.metadata["render_fps"] == config.fps == 5
    assert vector.call("_max_episode_steps") == (4, 4)
    policy = RightPolicy()
    result = rollout(vector, policy, *[lambda batch: batch] * 4, seeds=[0, 1])
    assert policy.tasks == ["go right", "go right"]
    assert result["success"][:, -1].tolist() == [True, True]


class RightPolicy(torch.nn.Module):
    def reset(self):
        pass

    def select_action(self, batch):
        self.tasks = batch["task"]
        assert batch["observation.images.top"].shape == (2, 3, 24, 24)
        return torch.ones(2, 1)


def test_an_evaluation_shows_the_views_in_the_order_that_the_policys_folder_keeps():
    config = BakuConfig(views=["wrist", "front"])
    assert ask_environment("tabletop", config, {}, []).views == ["wrist", "front"]
    assert ask_environment("tabletop", config, {}, ["front"]).views == ["front"]
    with pytest.raises(ValueError, match="must be cameras of tabletop"):
        ask_environment("tabletop", BakuConfig(views=["top"]), {}, [])


def test_an_environment_that_does_not_report_success_is_refused(tmp_path, monkeypatch):
    (tmp_path / "stranger_env.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(tmp_path)
    options = {"length": 1, "says_so": False}
    config = make_env_config(
        "lawm_gym", gym_id="stranger_env:stranger/Corridor-v0", gym_options=options
    )
    (vector,) = make_env(config, n_envs=1)["Corridor-v0"].values()
    vector.reset(seed=[0], options=START)
    with pytest.raises(ValueError, match="is_success"):
        vector.step(np.ones((1, 1), np.float32))


def test_policies_that_do_not_read_get_one_instruction():
    config = make_env_config("lawm_tabletop", task="reach", image_size=16, instruction=2)
    (vector,) = make_env(config, n_envs=2)["reach"].values()
    vector.reset(seed=[0, 1], options=START)
    assert vector.call("task_description") == ("go to the blue cube", "go to the blue cube")


def test_unknown_suites_and_other_rates_are_refused():
    with pytest.raises(ValueError, match="Did you mean `place"):
        make_env(make_env_config("lawm_tabletop", task="place"))
    with pytest.raises(ValueError, match="10 Hz"):
        make_env_config("lawm_tabletop", fps=30)


def test_the_expert_solves_the_robots_episodes_and_the_log_says_so(tmp_path):
    log = tmp_path / "sub/episodes.jsonl"
    robot = make_robot(task="go to the blue cube", first_seed=1, image_size=16, log=log)
    while len(robot.results) < 2:
        robot.send_action(expert_action(robot))
    robot.disconnect()
    assert not robot.is_connected
    lines = [EpisodeResult(**json.loads(line)) for line in log.read_text().splitlines()]
    assert [r.seed for r in lines] == [2, 6]  # Seeds from 1 on whose instruction is this one.
    assert all(r.is_success and r.task == "go to the blue cube" for r in lines)
    env = gymnasium.make("lawm_hf/Tabletop-v0", suite="reach", image_size=16)
    env.reset(seed=2)
    length, is_over = 0, False
    while not is_over:
        action = ScriptedExpert(env.unwrapped.world).action().astype(np.float32)
        is_over, length = env.step(action)[2], length + 1
    assert env.unwrapped.task_description == lines[0].task
    assert length == lines[0].length


def test_the_robot_joins_to_the_vectors_of_a_recorded_data_set(recording):
    names = json.loads((recording / "meta/info.json").read_text())["features"]
    assert [f"{n}.pos" for n in names["observation.state"]["names"]] == STATE_KEYS
    assert [f"{n}.pos" for n in names["action"]["names"]] == ACTION_KEYS
    robot = make_robot(task=RED)
    features = hw_to_dataset_features(robot.observation_features, "observation")
    frame = build_dataset_frame(features, robot.get_observation(), "observation")
    env = gymnasium.make("lawm_hf/Tabletop-v0", suite="reach")
    expected, _ = env.reset(seed=0)
    assert (frame["observation.state"] == expected["agent_pos"]).all()
    assert (frame["observation.images.wrist"] == expected["pixels"]["wrist"]).all()
    assert list(robot.action_features) == ACTION_KEYS


def test_a_new_scene_waits_until_the_policys_queue_is_empty():
    robot = make_robot(task=RED, image_size=16, n_action_steps=8)
    idle = dict.fromkeys(ACTION_KEYS, 0.0)
    for _ in range(20):  # One episode of `reach`, not solved.
        robot.send_action(idle)
    assert [(r["seed"], r["is_success"], r["length"]) for r in robot.results] == [(0, False, 20)]
    before = motors(robot)
    for _ in range(4):  # The rest of the third queue was planned for the old scene.
        robot.send_action(idle | {"x.pos": 1.0})
    assert motors(robot) == before
    robot.send_action(idle | {"x.pos": 1.0})
    assert motors(robot)["x.pos"] > before["x.pos"]


def test_the_last_episode_ends_the_run_as_ctrl_c_does():
    robot = make_robot(task=RED, image_size=16, num_episodes=1)
    idle = dict.fromkeys(ACTION_KEYS, 0.0)
    for _ in range(19):
        robot.send_action(idle)
    # A process that a shell has put into the background ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            robot.send_action(idle)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(robot.results) == 1


def test_the_robot_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="go to the red cube; go to the green cube"):
        make_robot(task="go to the pink cube")
    robot = make_robot_from_config(TabletopRobotConfig())
    with pytest.raises(RuntimeError, match="connect"):
        robot.get_observation()
    robot.connect()
    with pytest.raises(ValueError, match="return_to_initial_position=false"):
        robot.send_action(dict.fromkeys(STATE_KEYS, 0.0))


def make_safe(**kwargs):
    robot = make_robot_from_config(
        SafeArmConfig(arm={"type": "lawm_tabletop", "task": RED, "image_size": 16}, **kwargs)
    )
    robot.connect()
    return robot


def test_actions_are_clipped_to_the_range_of_the_demonstrations(recording):
    robot = make_safe(dataset_root=recording)
    statistics = json.loads((recording / "meta/stats.json").read_text())["action"]
    sent = robot.send_action(dict.fromkeys(ACTION_KEYS, 9.0))
    assert list(sent.values()) == statistics["max"]
    sent = robot.send_action(dict.fromkeys(ACTION_KEYS, -9.0))
    assert list(sent.values()) == statistics["min"]


def test_statistics_of_another_arm_are_refused(recording, tmp_path):
    info = json.loads((recording / "meta/info.json").read_text())
    info["features"]["action"]["names"][0] = "shoulder_pan"
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="folder that this arm recorded"):
        make_safe(dataset_root=tmp_path)


def test_a_goal_stays_near_the_present_position():
    robot = make_safe(max_relative_target=0.05)
    present = robot.get_observation()
    sent = robot.send_action({k: present[k] + 1.0 for k in ACTION_KEYS})
    assert sent == pytest.approx({k: present[k] + 0.05 for k in ACTION_KEYS})


def test_a_late_action_is_dropped_and_the_next_in_time_is_sent(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("lawm_hf.lerobot.safety.time.perf_counter", lambda: now[0])
    robot = make_safe(max_latency_s=0.2)
    action = dict.fromkeys(ACTION_KEYS, 0.5)
    before = motors(robot)
    now[0] += 0.3
    assert robot.send_action(action) == {}
    assert robot.num_late == 1
    assert motors(robot) == before
    now[0] += 0.1
    assert robot.send_action(action) == action
    now[0] += 9.0  # No observation since: moving back to the start is not an answer to one.
    assert robot.send_action(action) == action


WRONG = {
    "nan": {ACTION_KEYS[2]: math.nan},
    "infinite": {ACTION_KEYS[0]: -math.inf},
    "nothing": {ACTION_KEYS[1]: None},
    "a vector": {ACTION_KEYS[1]: np.zeros(2)},
    "unknown joint": {"elbow.pos": 0.0},
}


@pytest.mark.parametrize("wrong", [*WRONG, "missing joint"])
@pytest.mark.parametrize("guards", [{}, {"max_relative_target": 0.1}])
def test_what_is_not_one_finite_number_per_joint_never_reaches_an_arm(wrong, guards, caplog):
    robot = make_safe(**guards)
    robot.arm.send_action = lambda action: pytest.fail(f"sent {action}")
    action = dict.fromkeys(ACTION_KEYS, 0.0) | WRONG.get(wrong, {})
    if wrong == "missing joint":
        del action[ACTION_KEYS[0]]
    assert robot.send_action(action) == {}
    assert robot.num_refused == 1
    assert "holds its last goal" in caplog.text


def test_a_goal_near_an_unknown_position_is_refused(caplog):
    robot = make_safe(max_relative_target=0.1)
    nowhere = robot.get_observation() | {ACTION_KEYS[0]: math.nan}
    robot.arm.get_observation = lambda: nowhere
    robot.get_observation()
    assert robot.send_action(dict.fromkeys(ACTION_KEYS, 0.0)) == {}
    assert ACTION_KEYS[0] in caplog.text


@pytest.mark.parametrize("wrong", WRONG)
def test_robots_without_hardware_refuse_the_same_actions(wrong, recording, tmp_path):
    replay = ReplayRobotConfig(dataset_root=recording, log=tmp_path / "actions.jsonl")
    for config in (TabletopRobotConfig(task=RED, image_size=16), replay):
        robot = make_robot_from_config(config)
        robot.connect()
        with pytest.raises(ValueError, match="one finite number"):
            robot.send_action(dict.fromkeys(ACTION_KEYS, 0.0) | WRONG[wrong])
    assert (tmp_path / "actions.jsonl").read_text() == ""


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["max_relative_target", "max_latency_s"])
def test_a_guard_that_could_not_hold_is_refused(name, limit):
    with pytest.raises(ValueError, match="positive number"):
        make_safe(**{name: limit})


def test_a_range_of_demonstrations_that_is_not_finite_is_refused(recording, tmp_path):
    (tmp_path / "meta").mkdir()
    shutil.copy(recording / "meta/info.json", tmp_path / "meta")
    statistics = json.loads((recording / "meta/stats.json").read_text())
    statistics["action"]["max"][3] = math.nan
    (tmp_path / "meta/stats.json").write_text(json.dumps(statistics))
    with pytest.raises(ValueError, match="must be finite"):
        make_safe(dataset_root=tmp_path)


def test_the_plug_in_keeps_the_name_that_lerobot_searches():
    folder = Path(lawm_hf.envs.__file__).parents[2] / "plugins/lerobot_policy_lawm"
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert project["project"]["name"] == "lerobot_policy_lawm"
    assert project["build-system"]["build-backend"] == "hatchling.build"  # Keeps underscores.
    assert (folder / "lerobot_policy_lawm/__init__.py").exists()


def test_a_replay_serves_the_recorded_frames_and_writes_the_actions_beside_the_recorded(
    recording, tmp_path
):
    log = tmp_path / "actions.jsonl"
    robot = make_robot_from_config(ReplayRobotConfig(dataset_root=recording, episode=1, log=log))
    robot.connect()
    data = LeRobotDataset("tabletop/reach", root=recording, episodes=[1])
    features = hw_to_dataset_features(robot.observation_features, "observation")
    for i in range(2):
        frame = build_dataset_frame(features, robot.get_observation(), "observation")
        assert frame["observation.state"] == pytest.approx(data[i]["observation.state"].numpy())
        front = data[i]["observation.images.front"].permute(1, 2, 0).numpy()
        assert (frame["observation.images.front"] == (front * 255).round()).all()
        assert frame["observation.images.front"].dtype == np.uint8
        robot.send_action(dict.fromkeys(ACTION_KEYS, 0.5))
    robot.disconnect()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["frame"] for line in lines] == [0, 1]
    assert lines[1]["recorded"] == pytest.approx(data[1]["action"].tolist())
    assert lines[1]["action"] == [0.5] * 7
