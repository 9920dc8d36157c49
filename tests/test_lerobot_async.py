# SPDX-License-Identifier: Apache-2.0
"""Asynchronous inference: LeRobot's policy server with our policy, over a real connection."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

pytest.importorskip("grpc")
pytest.importorskip("lerobot")
pytest.importorskip("mujoco")

import grpc
from lerobot.robots import make_robot_from_config

from lawm_hf import BakuConfig, BakuPolicy, LAWMPolicy, LAWMProcessor
from lawm_hf.hub.lerobot_export import export_for_lerobot
from lawm_hf.lerobot import TabletopRobotConfig
from lawm_hf.lerobot.robot_tabletop import STATE_KEYS

TASK = "go to the red cube"
STATS = {
    "state": {"min": -np.ones(8), "max": np.ones(8)},
    "actions": {"min": -3 * np.ones(7), "max": np.ones(7)},
}


@pytest.fixture
def folder(tmp_path):
    config = BakuConfig.from_preset("tabletop", num_layers=1, hidden_size=32, task_embed_size=64)
    BakuPolicy(config).save_pretrained(tmp_path / "policy")
    processor = LAWMProcessor(image_size=64, task_embed_size=64)
    processor.set_statistics(STATS)
    processor.save_pretrained(tmp_path / "policy")
    export_for_lerobot(tmp_path / "policy", ["front", "wrist"])
    return tmp_path / "policy"


def test_the_policy_server_answers_a_robots_observation_with_the_policys_chunk(
    folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # LeRobot writes `logs/` where it is imported.
    from lerobot.async_inference.configs import PolicyServerConfig
    from lerobot.async_inference.helpers import (
        RemotePolicyConfig,
        TimedObservation,
        map_robot_keys_to_lerobot_features,
    )
    from lerobot.async_inference.policy_server import PolicyServer
    from lerobot.transport import services_pb2, services_pb2_grpc
    from lerobot.transport.utils import send_bytes_in_chunks

    import lawm_hf.lerobot.policy_server  # noqa: F401

    robot = make_robot_from_config(TabletopRobotConfig(task=TASK))
    robot.connect()
    features = map_robot_keys_to_lerobot_features(robot)
    observation = robot.get_observation()
    server = grpc.server(ThreadPoolExecutor(2))
    service = PolicyServer(PolicyServerConfig(inference_latency=0))
    services_pb2_grpc.add_AsyncInferenceServicer_to_server(service, server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        with grpc.insecure_channel(f"localhost:{port}") as channel:
            stub = services_pb2_grpc.AsyncInferenceStub(channel)
            stub.Ready(services_pb2.Empty())
            wanted = RemotePolicyConfig("lawm", str(folder), features, actions_per_chunk=4)
            stub.SendPolicyInstructions(services_pb2.PolicySetup(data=pickle.dumps(wanted)))
            told = TimedObservation(0.0, 7, observation | {"task": TASK}, must_go=True)
            parts = send_bytes_in_chunks(pickle.dumps(told), services_pb2.Observation, silent=True)
            stub.SendObservations(parts)
            answer = pickle.loads(stub.GetActions(services_pb2.Empty()).data)
    finally:
        server.stop(None)
    policy, processor = LAWMPolicy.from_pretrained(folder), LAWMProcessor.from_pretrained(folder)
    images = np.stack([observation[view] for view in ("front", "wrist")])
    state = torch.tensor([[observation[key] for key in STATE_KEYS]])
    batch = processor(
        images=torch.from_numpy(images).permute(0, 3, 1, 2)[None], task=[TASK], state=state
    )
    expected = processor.unnormalize_actions(policy.eval().predict_action_chunk(**batch))[0]
    assert [action.get_timestep() for action in answer] == [7, 8, 9, 10]
    chunk = torch.stack([action.get_action() for action in answer])
    torch.testing.assert_close(chunk, expected[:4], atol=1e-6, rtol=0)


def test_a_server_that_runs_what_it_is_sent_serves_this_machine_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from lawm_hf.lerobot.policy_server import ServerConfig

    for host in ("localhost", "127.0.0.1", "[::1]", f"unix:{tmp_path}/socket"):
        assert ServerConfig(host=host).host == host
    for host in ("0.0.0.0", "::", "192.168.0.7", "robot.example.org", ""):
        with pytest.raises(ValueError, match="must be this machine"):
            ServerConfig(host=host)
        assert ServerConfig(host=host, allow_any_host=True).host == host
