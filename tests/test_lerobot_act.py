# SPDX-License-Identifier: Apache-2.0
"""LeRobot's ACT as a LAWM policy, and back into stock LeRobot."""

import sys

import pytest
import torch

pytest.importorskip("lerobot")

from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors

from lawm_hf import (
    DreamerV3Config,
    DreamerV3WorldModel,
    LawmForPretraining,
    LAWMPolicy,
    LAWMProcessor,
)
from lawm_hf.lerobot.act import export_act, main
from lawm_hf.models.auto_lawm import new_policy

TASKS = ["go to the red cube", "go to the blue cube"]
SMALL = {
    "task_embed_size": 64,
    "act_options": {"dim_model": 16, "n_heads": 2, "dim_feedforward": 16, "n_encoder_layers": 1},
}


def make_model() -> LawmForPretraining:
    torch.manual_seed(0)
    policy = new_policy("lerobot:act", "tabletop", latent_norm="batch", **SMALL)
    world = DreamerV3Config.from_preset("tiny", deter_size=32, hidden_size=16, depth=8)
    return LawmForPretraining(policy, DreamerV3WorldModel(world))


def observation() -> dict:
    images = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return {"images": images, "task": TASKS}


def test_the_world_model_trains_every_parameter_of_act():
    model, processor = make_model(), LAWMProcessor(image_size=64, frame_size=32, task_embed_size=64)
    frames = torch.randint(0, 256, (2, 11, 3, 32, 32), dtype=torch.uint8)
    model(**processor(**observation(), frames=frames)).loss.backward()
    without = {n for n, p in model.policy.named_parameters() if p.grad is None or not p.grad.any()}
    # The state, ACT's own latent, and what its first decoder layer attends to are zeros at first.
    expected = ("act.encoder_robot_state", "act.encoder_latent", "act.decoder.layers.0.")
    assert all(name.startswith(expected) for name in without), without


def test_latents_follow_the_instruction_and_a_checkpoint_round_trips(tmp_path):
    model, processor = make_model(), LAWMProcessor(image_size=64, task_embed_size=64)
    model.eval().save_pretrained(tmp_path)
    again = LAWMPolicy.from_pretrained(tmp_path, subfolder="policy").eval()
    batch = processor(**observation())
    latents = model.policy(**batch).actions
    torch.testing.assert_close(again(**batch).actions, latents)
    batch["task_embeds"] = batch["task_embeds"].flip(0)
    assert not again(**batch).actions.allclose(latents)


def test_stock_lerobot_loads_the_pretrained_network_and_feeds_it_the_instruction(tmp_path):
    model, processor = make_model(), LAWMProcessor(image_size=64, task_embed_size=64)
    processor.center_tasks(TASKS)
    model.save_pretrained(tmp_path / "pretraining")
    processor.save_pretrained(tmp_path / "pretraining/processor")
    export_act(tmp_path / "pretraining", tmp_path / "stock", ["front", "wrist"])

    config = PreTrainedConfig.from_pretrained(tmp_path / "stock")
    assert config.type == "act"
    stock = get_policy_class("act").from_pretrained(tmp_path / "stock", config=config)
    before, _ = make_pre_post_processors(config, pretrained_path=str(tmp_path / "stock"))
    pretrained, weights = model.policy.act.state_dict(), stock.model.state_dict()
    different = {k for k in weights if not weights[k].equal(pretrained[k])}
    assert different <= {"action_head.weight", "action_head.bias"}
    assert "action_head.weight" in different

    images = observation()["images"]
    batch = {f"observation.images.{v}": images[:, i] for i, v in enumerate(("front", "wrist"))}
    batch |= {"observation.state": torch.rand(2, 8), "task": TASKS}
    ready = before(batch)
    expected = processor(**observation())["task_embeds"]
    torch.testing.assert_close(ready["observation.environment_state"], expected)
    chunk = stock.predict_action_chunk(ready)
    ready["observation.environment_state"] = expected.flip(0)
    assert not stock.predict_action_chunk(ready).allclose(chunk)


def test_a_folder_that_cannot_be_exported_is_told_in_one_screen(tmp_path, monkeypatch, capsys):
    command = ["act", str(tmp_path), str(tmp_path / "out"), "--cameras", "front"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        main()
    assert "must be what a finished run has written" in capsys.readouterr().err
