# SPDX-License-Identifier: Apache-2.0
"""The world models beside DreamerV3: diffusion of frames, and prediction in feature space."""

import json
import re
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from remote_code import loss_as_remote_code
from test_lawm import make_batch, make_policy
from test_recipes import pretrain
from transformers import AutoModel, BertConfig, BertModel, ViTConfig, ViTModel
from world_model_contract import WorldModelContract

from lawm_hf.hub.card import _model, data_licences
from lawm_hf.hub.licences import parents
from lawm_hf.models import FeatureWorldModel, FrameDiffusionWorldModel, LAWMForPretraining
from lawm_hf.models.auto_lawm import new_world_model
from lawm_hf.models.modeling_causal import draw_steps
from lawm_hf.models.modeling_outputs import spread_steps

TRANSFORMER = {"action_size": 3, "hidden_size": 16, "num_layers": 1, "num_heads": 2}
DIFFUSION = TRANSFORMER | {"image_size": 16, "patch_size": 2, "channels": [8, 16]}
FEATURES = TRANSFORMER | {"image_size": 16, "decoder_size": 8}
OPTIONS = {"frame_diffusion": DIFFUSION, "features": FEATURES}
SMALL_VIT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
SMALL_VIT |= {"intermediate_size": 8, "image_size": 16, "patch_size": 4}
each_world_model = pytest.mark.parametrize("name", OPTIONS)


class TestFrameDiffusion(WorldModelContract):
    world_model_class = FrameDiffusionWorldModel
    options = DIFFUSION


class TestFewFramesOfDiffusion(WorldModelContract):
    world_model_class = FrameDiffusionWorldModel
    options = DIFFUSION | {"num_decoded_steps": 2, "num_sampling_steps": 1}


class TestFeatures(WorldModelContract):
    world_model_class = FeatureWorldModel
    options = FEATURES


class TestFewFramesOfFeatures(WorldModelContract):
    world_model_class = FeatureWorldModel
    options = FEATURES | {"num_decoded_steps": 2}


class TestFeaturesOfAViT(WorldModelContract):
    world_model_class = FeatureWorldModel
    options = FEATURES | {"backbone_config": {"model_type": "vit"} | SMALL_VIT}


def make(name: str, **options) -> Any:
    torch.manual_seed(0)
    return new_world_model(name, "default", **OPTIONS[name] | options)


def clip(side: int = 16, batch_size: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(batch_size, 5, 3, side, side, generator=generator)
    return {"frames": frames, "actions": torch.rand(batch_size, 4, 3, generator=generator) * 2 - 1}


# ------------------------------------------------------------------------ the pair


@each_world_model
@pytest.mark.parametrize("policy", ["baku", "diffusion"])
def test_one_update_reaches_every_latent_and_parameter_of_either_policy(name, policy):
    options = {"image_size": 32, "action_size": 7, "num_decoded_steps": 2}
    world_model = make(name, **options)
    model = LAWMForPretraining(make_policy(policy, latent_norm="batch"), world_model).train()
    outputs = model(**make_batch())
    outputs.latents.retain_grad()
    outputs.loss.backward()
    assert outputs.latents.grad.any(-1).all()
    assert [
        n for n, p in model.policy.named_parameters() if p.grad is None or not p.grad.any()
    ] == []


@each_world_model
def test_a_pair_is_saved_and_loaded_as_one(name, tmp_path):
    pair = LAWMForPretraining(make_policy("baku"), make(name, image_size=32, action_size=7)).eval()
    pair.save_pretrained(tmp_path)
    loaded = LAWMForPretraining.from_pretrained(tmp_path)
    assert torch.equal(loaded(**make_batch()).loss, pair(**make_batch()).loss)


@pytest.mark.slow
@each_world_model
def test_a_run_ends_with_report_strip_and_a_card_that_says_which_world_model(name, tmp_path):
    pretrain(
        tmp_path,
        steps=2,
        world_model_type=name,
        world_model_config='{"hidden_size": 16, "num_layers": 1}',
        eval_source="tabletop:reach,episodes=16,seed=900000,views=front,num_workers=1",
    )
    health = json.loads((tmp_path / "health.json").read_text())
    assert health["imagined_error"] < 2 * health["copy_error"]
    assert (tmp_path / "strip.png").stat().st_size > 10_000
    assert f"`lawm_{name}`" in (tmp_path / "README.md").read_text()


@pytest.mark.slow
@each_world_model
def test_a_saved_folder_loads_as_remote_code_without_this_package(name, tmp_path):
    model, inputs = make(name).eval(), clip()
    loss = loss_as_remote_code(model, inputs, tmp_path)
    assert loss == pytest.approx(model(**inputs).loss.item(), rel=1e-5)


@each_world_model
def test_autocast_to_bfloat16_changes_the_loss_little(name):
    model, inputs = make(name).train(), clip()
    losses = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(model(**inputs).loss)
    losses[1].backward()
    assert losses[1].dtype == torch.float32
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@each_world_model
def test_gradient_checkpointing_or_none_is_offered_and_changes_nothing(name):
    model, inputs = make(name).train(), clip()
    if not model.supports_gradient_checkpointing:
        return
    grads = []
    for _ in range(2):
        torch.manual_seed(0)
        model.zero_grad()
        model(**inputs).loss.backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        model.gradient_checkpointing_enable()
    torch.testing.assert_close(grads[1], grads[0])


@each_world_model
def test_an_untrained_one_predicts_nearly_a_copy_of_the_first_frame(name):
    model, inputs = make(name).eval(), clip()
    first = inputs["frames"][:, :1]
    drawn = model.predict_frames(first[:, 0], inputs["actions"])
    assert (drawn - first).abs().mean() < 0.1


@each_world_model
@pytest.mark.parametrize(
    "options",
    [{"num_decoded_steps": 1}, {"hidden_size": 15}, {"image_size": 17}, {"motion_weight": -1}],
)
def test_a_wrong_option_is_refused_by_name(name, options):
    with pytest.raises(StrictDataclassError, match=next(iter(options))):
        make(name, **options)


@each_world_model
def test_a_clip_of_another_size_is_refused_with_the_remedy(name):
    with pytest.raises(ValueError, match="Resize the frames"):
        make(name)(**clip(side=32))


def test_drawn_steps_hold_the_last_and_stand_for_all():
    torch.manual_seed(0)
    total = torch.zeros(1, 5)
    for _ in range(2000):
        steps, weights = draw_steps(5, 3, torch.device("cpu"))
        assert steps[-1] == 4
        assert len(set(steps.tolist())) == 3
        total += spread_steps(torch.ones(1, 3), steps, weights, 5)
    torch.testing.assert_close(total / 2000, torch.ones(1, 5), rtol=0, atol=0.1)


# ------------------------------------------------------------------------ diffusion


def test_the_noise_that_is_given_is_the_noise_that_is_used():
    model, inputs = make("frame_diffusion").eval(), clip()
    noise = model.draw_noise(inputs["frames"], torch.Generator().manual_seed(0))
    assert noise["levels"].shape == (2, 4)
    loss = model(**inputs, **noise).loss
    assert model(**inputs, **noise | {"levels": noise["levels"] + 1}).loss != loss
    assert model(**inputs, **noise | {"noise": -noise["noise"]}).loss != loss


def test_sampling_arrives_at_what_the_denoiser_says_whatever_it_started_from():
    model, inputs = make("frame_diffusion").eval(), clip()
    first, targets = inputs["frames"][:, 0], inputs["frames"][:, 1:]
    seen = []

    def knows_the_answer(noisy, sigma, *_):
        seen.append((noisy - (2 * targets - 1)).std() / sigma.mean())
        return targets

    model._denoise = knows_the_answer
    torch.testing.assert_close(model.predict_frames(first, inputs["actions"]), targets)
    # After each step what is left of the noise is as strong as the next step is told.
    assert len(seen) == 3
    assert all(0.8 < ratio < 1.2 for ratio in seen)


def test_a_level_of_noise_out_of_order_is_refused():
    with pytest.raises(StrictDataclassError, match="min_noise < max_noise"):
        make("frame_diffusion", min_noise=6)


# ------------------------------------------------------------------------ features


def test_the_pictures_teach_the_decoder_and_nothing_else():
    model, inputs = make("features").train(), clip()
    inputs["actions"].requires_grad_()
    output = model(**inputs)
    output.reconstruction_loss.sum().backward()
    assert inputs["actions"].grad is None
    taught = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert taught == {"decoder"}


def test_the_backbone_of_a_loaded_world_model_does_not_learn_either(tmp_path):
    make("features").save_pretrained(tmp_path)
    loaded = FeatureWorldModel.from_pretrained(tmp_path)
    assert not any(p.requires_grad for p in loaded.backbone.parameters())
    assert all(p.requires_grad for p in loaded.predictor.parameters())


def test_the_backbone_never_changes_in_training():
    model, inputs = make("features").train(), clip()
    before = {name: t.clone() for name, t in model.backbone.state_dict().items()}
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    model(**inputs).loss.backward()
    optimizer.step()
    assert all(torch.equal(t, before[n]) for n, t in model.backbone.state_dict().items())


def test_random_features_are_the_same_whatever_the_seed_and_leave_it_alone():
    features, after = [], []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = new_world_model("features", "default", **FEATURES)
        features.append(model.encode(clip()["frames"]))
    assert torch.equal(*features)
    for _ in range(2):
        torch.manual_seed(5)
        new_world_model("features", "default", **FEATURES)
        after.append(torch.rand(1))
    assert torch.equal(*after)


def test_features_tell_one_frame_from_another():
    features = make("features").encode(clip()["frames"])
    assert features.shape[:2] == (2, 5)
    distance = (features[:, 1:] - features[:, :1]).square().mean()
    assert distance > 0.1  # of a variance of 1


def test_a_backbone_from_a_folder_comes_along_in_the_checkpoint(tmp_path):
    torch.manual_seed(3)
    vit = ViTModel(ViTConfig(**SMALL_VIT), add_pooling_layer=False).eval()
    vit.save_pretrained(tmp_path / "backbone")
    model = make("features", backbone=str(tmp_path / "backbone"))
    images = clip()["frames"]
    assert model.encode(images).shape == (2, 5, 16, 8)  # no class token
    model.save_pretrained(tmp_path / "world_model")
    for file in (tmp_path / "backbone").iterdir():
        file.unlink()
    loaded = AutoModel.from_pretrained(tmp_path / "world_model")
    assert torch.equal(loaded.encode(images), model.encode(images))
    kept = loaded.backbone.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in vit.state_dict().items())
    assert str(tmp_path) not in (tmp_path / "world_model/config.json").read_text()
    assert "backbone `backbone`" in _model(loaded)


def test_the_licence_of_a_backbone_is_asked_for_before_its_weights_are_shared():
    args = {"sources": ["tabletop:reach"], "world_model_config": '{"backbone": "some/vit@abc"}'}
    assert parents(args) == ["some/vit"]
    assert (
        "state it before you share"
        in data_licences(args, {})["what some/vit was pretrained on"].text
    )
    assert parents({"sources": ["tabletop:reach"], "world_model_config": '{"depth": 8}'}) == []


def test_a_backbone_of_another_resolution_sees_resized_frames():
    backbone = {"model_type": "vit"} | SMALL_VIT | {"image_size": 32}
    model = make("features", backbone_config=backbone).eval()
    inputs = clip()
    assert model.encode(inputs["frames"]).shape == (2, 5, 64, 8)
    assert model.predict_frames(inputs["frames"][:, 0], inputs["actions"]).shape[-1] == 16


def test_a_backbone_without_all_its_weights_is_refused(tmp_path):
    vit = ViTModel(ViTConfig(**SMALL_VIT), add_pooling_layer=False)
    weights = {n: t for n, t in vit.state_dict().items() if "embeddings" in n}
    missing = min(vit.state_dict().keys() - weights.keys())
    vit.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match=f"all weights.*{re.escape(missing)}"):
        make("features", backbone=str(tmp_path))


def test_a_backbone_that_was_saved_in_half_precision_is_used_in_that_of_the_world_model(tmp_path):
    vit = ViTModel(ViTConfig(**SMALL_VIT), add_pooling_layer=False).to(torch.bfloat16)
    vit.save_pretrained(tmp_path / "backbone")
    model, inputs = make("features", backbone=str(tmp_path / "backbone")), clip()
    assert model.dtype == torch.float32
    expected = model(**inputs).loss
    model.save_pretrained(tmp_path / "world_model")
    half = AutoModel.from_pretrained(tmp_path / "world_model", dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(half(**inputs).loss, expected, rtol=0.05, atol=0)


def test_a_backbone_without_a_grid_is_refused(monkeypatch):
    def as_a_list(self, images):
        return torch.zeros(*images.shape[:2], 5, 8)

    monkeypatch.setattr(FeatureWorldModel, "encode", as_a_list)
    with pytest.raises(ValueError, match="square grid, got 5 places"):
        make("features")


def test_a_model_of_words_is_no_backbone(tmp_path):
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must be a vision model"):
        make("features", backbone=str(tmp_path))
