# SPDX-License-Identifier: Apache-2.0
"""LeRobot's SmolVLA as a LAWM policy, with a tiny random backbone."""

import pytest
import torch

pytest.importorskip("lerobot")

from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from test_vlm import SMOLVLM, words_to_tokenizer
from transformers import (
    AutoConfig,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)
from transformers.models.smolvlm import processing_smolvlm

from lawm_hf import DreamerV3Config, DreamerV3WorldModel, LAWMForPretraining, LAWMPolicy
from lawm_hf.lerobot import smolvla
from lawm_hf.models import LAWMProcessor
from lawm_hf.models.auto_lawm import new_policy

SPECIAL = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
}
TASKS = ["go to the red cube", "go to the blue cube"]


@pytest.fixture(autouse=True)
def _numbers_in_words(monkeypatch):
    """SmolVLM's processor asks for a library that it needs for videos only."""
    monkeypatch.setattr(processing_smolvlm, "num2words", str)


@pytest.fixture
def vlm(tmp_path) -> str:
    """Configuration and processor of a SmolVLM; no weights."""
    folder = tmp_path / "smolvlm"
    AutoConfig.for_model(**SMOLVLM).save_pretrained(folder)
    tokenizer = words_to_tokenizer(
        [*SPECIAL.values(), "<end_of_utterance>"], pad_token="<s>", extra_special_tokens=SPECIAL
    )
    processor = SmolVLMProcessor(SmolVLMImageProcessor(), tokenizer, SmolVLMVideoProcessor())
    processor.save_pretrained(folder)
    return str(folder)


def make_policy(vlm: str, **options) -> LAWMPolicy:
    torch.manual_seed(0)
    network = {"load_vlm_weights": False, "num_vlm_layers": 2, **options.pop("network", {})}
    sizes = {"chunk_size": 3, "action_size": 2, "state_size": 2, "task_embed_size": 32}
    options = sizes | {"image_size": 32, "backbone": vlm, "smolvla_options": network} | options
    return new_policy("lerobot:smolvla", "tabletop", **options)


def make_batch(policy: LAWMPolicy) -> dict:
    sizes = {"image_size": 32, "frame_size": 32, "task_embed_size": 32}
    processor = LAWMProcessor(**sizes, **policy.config.processor_options())
    images = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return processor(images=images, task=TASKS)


@pytest.mark.parametrize("is_frozen", [True, False])
def test_the_world_model_trains_the_expert_through_two_steps_of_the_sampler(vlm, is_frozen):
    network = {"train_expert_only": is_frozen, "freeze_vision_encoder": is_frozen}
    policy = make_policy(vlm, latent_norm="batch", network=network)
    world = DreamerV3Config.from_preset("tiny", action_size=2, deter_size=32, hidden_size=16)
    model = LAWMForPretraining(policy, DreamerV3WorldModel(world))
    frames = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    outputs = model(frames=frames, **make_batch(policy))
    outputs.latents.retain_grad()
    outputs.loss.backward()
    assert (outputs.latents.grad.abs().sum((0, 2)) > 0).all()
    learning = {n: p for n, p in policy.named_parameters() if p.requires_grad}
    without = {n for n, p in learning.items() if p.grad is None or not p.grad.any()}
    assert without <= {"vla.state_proj.weight"}  # video has no state
    assert is_frozen is not any(".vlm." in name for name in learning)


def test_latents_follow_the_words_and_a_checkpoint_round_trips(vlm, tmp_path):
    policy = make_policy(vlm).eval()
    batch = make_batch(policy)
    latents = policy(**batch).actions
    torch.testing.assert_close(policy(**batch).actions, latents, rtol=0, atol=0)
    policy.save_pretrained(tmp_path)
    again = LAWMPolicy.from_pretrained(tmp_path)
    torch.testing.assert_close(again(**batch).actions, latents)
    learning = [n for n, p in policy.named_parameters() if p.requires_grad]
    assert [n for n, p in again.named_parameters() if p.requires_grad] == learning
    batch["task_tokens"] = batch["task_tokens"].flip(0)
    assert not again(**batch).actions.allclose(latents)


def test_stock_lerobot_loads_the_pretrained_network_and_acts_on_words(vlm, tmp_path):
    policy = make_policy(vlm)
    policy.save_pretrained(tmp_path / "pretraining/policy")
    smolvla.export_smolvla(tmp_path / "pretraining", tmp_path / "stock", ["front", "wrist"])
    config = PreTrainedConfig.from_pretrained(tmp_path / "stock")
    assert config.type == "smolvla"
    stock = get_policy_class("smolvla").from_pretrained(tmp_path / "stock", config=config)
    pretrained, weights = policy.vla.state_dict(), stock.model.state_dict()
    different = {k for k in weights if not weights[k].equal(pretrained[k])}
    assert different == {"action_out_proj.weight"}
    before, _ = make_pre_post_processors(config, pretrained_path=str(tmp_path / "stock"))
    batch = {f"observation.images.{v}": torch.rand(2, 3, 48, 64) for v in ("front", "wrist")}
    ready = before(batch | {"observation.state": torch.rand(2, 2), "task": TASKS})
    chunk = stock.predict_action_chunk(ready, noise=torch.zeros(2, 3, 32))
    assert chunk.shape == (2, 3, 2)
    assert not chunk[0].allclose(chunk[1])


def test_it_learns_demonstrations_by_its_own_loss_and_acts_from_given_noise(vlm):
    policy = make_policy(vlm).eval()
    batch = make_batch(policy)
    targets = {"actions": torch.rand(2, 3, 2), "state": torch.rand(2, 2)}
    output = policy(**batch, **targets, action_is_pad=torch.zeros(2, 3, dtype=torch.bool))
    assert output.loss.isfinite()
    noise = policy.draw_noise(2, torch.Generator().manual_seed(0))
    chunk = policy.predict_action_chunk(**batch, **noise)
    assert chunk.shape == (2, 3, 2)
    assert chunk.abs().max() <= 1
    torch.testing.assert_close(policy.predict_action_chunk(**batch, **noise), chunk)
    before = policy.vla.action_out_proj.weight.clone()
    policy.reset_action_head()
    assert not policy.vla.action_out_proj.weight.equal(before)
