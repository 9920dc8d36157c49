# SPDX-License-Identifier: Apache-2.0
"""What a finetuned policy takes over from pretraining: its parts, and the world model's eyes."""

import importlib
from types import SimpleNamespace

import pytest
import torch
from dreamer_fixtures import build
from test_baku import PATCH, RESNET, TINY, TestBakuPolicy
from test_recipes import finetune, pretrain, recipe

from lawm_hf import LAWMPolicy, LAWMProcessor
from lawm_hf.models.configuration_baku import BakuConfig
from lawm_hf.models.modeling_baku import BakuPolicy
from lawm_hf.training.transfer import copy_frame_encoder, keep_part, transfer_report

STRIDED = {"stem": "strided", "encoder_channels": (16,), "encoder_depths": (1,)}


def make_policy(seed: int = 0, **options) -> BakuPolicy:
    torch.manual_seed(seed)
    return BakuPolicy(BakuConfig(**TINY | PATCH | options)).eval()


@pytest.fixture
def pretraining(tmp_path):
    """A folder as `recipes/pretrain.py` leaves it, with noise for weights where 0 would tell."""
    policy, world_model = make_policy(latent_norm="batch"), build(depth=8)
    with torch.no_grad():
        for parameter in (*policy.parameters(), *world_model.encoder.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape))
    policy.save_pretrained(tmp_path / "run/policy")
    world_model.save_pretrained(tmp_path / "run/world_model")
    return tmp_path / "run"


def weights_from(policy: torch.nn.Module, other: torch.nn.Module) -> set[str]:
    """Names of the weights that two modules share."""
    theirs = other.state_dict()
    return {
        name
        for name, weight in policy.state_dict().items()
        if weight.shape == theirs[name].shape and torch.equal(weight, theirs[name])
    }


# -------------------------------------------------------------------------------------- parts


def test_a_part_is_pretrained_and_the_rest_is_that_of_a_new_policy(pretraining):
    policy = LAWMPolicy.from_latent_pretraining(pretraining)
    assert keep_part(policy, "all") is policy
    torch.manual_seed(1)
    new = type(policy)(policy.config)
    vision = {name for name in policy.state_dict() if name.startswith("vision.")}
    for part in ("vision", "trunk"):
        torch.manual_seed(1)
        kept = keep_part(policy, part)
        expected = vision if part == "vision" else set(policy.state_dict()) - vision
        assert weights_from(kept, policy) >= expected
        assert weights_from(kept, new) >= set(policy.state_dict()) - expected
        assert not any(p is q for p in kept.parameters() for q in policy.parameters())


def test_the_norm_of_a_head_of_another_size_starts_afresh_not_from_what_memory_holds(
    pretraining, monkeypatch
):
    empty_like = torch.empty_like

    def dirty(*args, **kwargs):
        found = empty_like(*args, **kwargs)
        return found.fill_(torch.nan) if found.is_floating_point() else found

    monkeypatch.setattr(torch, "empty_like", dirty)
    policy = LAWMPolicy.from_latent_pretraining(pretraining, action_size=6)
    assert all(tensor.isfinite().all() for tensor in policy.state_dict().values())


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match=r"`transfer` must be .*'eyes'"):
        keep_part(make_policy(), "eyes")


def test_the_report_counts_what_came_over_and_draws_no_random_number(pretraining):
    state = torch.get_rng_state()
    policy = LAWMPolicy.from_latent_pretraining(pretraining, state_size=3)
    after_loading = torch.get_rng_state()
    line = transfer_report(policy, pretraining)
    assert torch.equal(torch.get_rng_state(), after_loading)
    assert not torch.equal(after_loading, state)  # the fresh layers did
    num_vision = len(policy.vision.state_dict())
    assert f"vision {num_vision} of {num_vision}" in line
    assert "action_head 0 of 2" in line
    assert "proprioception 3 of 4" in line  # the first layer reads another robot's state
    assert f"vision 0 of {num_vision}" in transfer_report(keep_part(policy, "trunk"), pretraining)


# ------------------------------------------------------------------------- the world model's eyes


@pytest.mark.parametrize("test", ["test_every_parameter_receives_gradient"])
@pytest.mark.parametrize("kind", ["loss", "latents"])
def test_a_strided_stem_learns_in_all_its_parameters(test, kind):
    contract = TestBakuPolicy()
    contract.options = {**TINY, **STRIDED}
    getattr(contract, test)(kind)


def test_a_strided_stem_has_the_output_of_a_patch_stem():
    pictures = torch.randn(2, 3, 32, 32)
    patch, strided = make_policy(), make_policy(**STRIDED)
    assert strided.vision.stem(pictures).shape == patch.vision.stem(pictures).shape


def test_a_copied_stem_gives_the_features_of_the_world_models_first_two_stages(pretraining):
    policy = make_policy(seed=1, **STRIDED)
    copy_frame_encoder(policy, pretraining)
    policy.save_pretrained(pretraining / "finetuned")
    policy = LAWMPolicy.from_pretrained(pretraining / "finetuned")
    world_model = build(depth=8).from_pretrained(pretraining / "world_model")
    frames = torch.randint(0, 256, (2, 1, 3, 32, 32), dtype=torch.uint8)
    processor = LAWMProcessor(image_size=32, image_mean=(0.5,) * 3, image_std=(1.0,) * 3)
    views = processor(images=frames, task=["go"] * 2)["pixel_values"]
    ours = policy.vision.stem(views[:, 0])
    theirs = world_model.encoder.layers[:6](world_model._centre(frames)[:, 0])
    assert ours.shape == (2, 16, 8, 8)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("options", [PATCH, RESNET, {**STRIDED, "encoder_channels": (32,)}])
def test_a_frame_encoder_that_does_not_fit_is_refused(pretraining, options):
    with pytest.raises(ValueError, match='`stem` "strided" and 16 as the first'):
        copy_frame_encoder(make_policy(**options), pretraining)


def test_a_strided_stem_of_odd_width_is_refused():
    with pytest.raises(Exception, match="must be even with the strided stem"):
        make_policy(**{**STRIDED, "encoder_channels": (15,)})


# ------------------------------------------------------------------------------------- recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer") / "pretrain"
    pretrain(folder, steps=2)
    return folder


def test_a_frozen_pretrained_vision_encoder_is_the_same_after_finetuning(run, tmp_path, capsys):
    finetune(tmp_path, pretrained=str(run), transfer="vision", freeze_vision=True)
    source = LAWMPolicy.from_pretrained(run, subfolder="policy").state_dict()
    for name, weight in LAWMPolicy.from_pretrained(tmp_path).state_dict().items():
        if name.startswith("vision."):
            assert torch.equal(weight, source[name])
        elif name.startswith("blocks.") and weight.ndim > 1:
            assert not torch.equal(weight, source[name])
    assert f"Tensors from {run}: " in capsys.readouterr().out


def test_a_policy_from_scratch_can_see_as_the_world_model(run, tmp_path):
    options = {"policy_config": '{"hidden_size": 32, "num_layers": 1, "encoder_channels": [16]}'}
    finetune(tmp_path, vision_from=str(run), freeze_vision=True, **options)
    policy = LAWMPolicy.from_pretrained(tmp_path)
    assert LAWMProcessor.from_pretrained(tmp_path).image_mean == (0.5, 0.5, 0.5)
    copy_frame_encoder(copied := make_policy(**STRIDED), run)
    assert weights_from(policy.vision.stem, copied.vision.stem) == set(
        copied.vision.stem.state_dict()
    )


@pytest.mark.parametrize(
    "options", [{"transfer": "vision"}, {"pretrained": "a", "vision_from": "b"}]
)
def test_options_of_pretrained_and_fresh_policies_do_not_mix(options):
    module = recipe("finetune")
    source = module.open_source(module.FinetuneArgs().source)
    with pytest.raises(ValueError, match="Leave one out"):
        module.build_policy(module.FinetuneArgs(**options), source)


def test_a_policy_from_a_folder_brings_the_processor_that_its_weights_know(tmp_path):
    recipe = importlib.import_module("lawm_hf.recipes.finetune")
    config = BakuConfig.from_preset("tabletop", hidden_size=32, num_layers=1, task_embed_size=64)
    BakuPolicy(config).save_pretrained(tmp_path)
    LAWMProcessor(64, image_mean=(0.5, 0.5, 0.5), task_embed_size=64).save_pretrained(tmp_path)
    features = SimpleNamespace(action_size=7, state_size=8, cameras=["front", "wrist"])
    args = recipe.FinetuneArgs(policy_type=str(tmp_path))
    _, processor = recipe.build_policy(args, SimpleNamespace(features=features))
    assert processor.image_mean == (0.5, 0.5, 0.5)
