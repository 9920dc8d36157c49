# SPDX-License-Identifier: Apache-2.0
"""One folder, both libraries: what either saves the other loads, with the same actions."""

import functools
import json
import shutil
from dataclasses import dataclass, fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub.dataclasses import strict
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from lawm_hf import (
    BakuConfig,
    BakuPolicy,
    DiffusionPolicy,
    DiffusionPolicyConfig,
    DreamerV3Config,
    DreamerV3WorldModel,
    LawmForPretraining,
    LAWMPolicy,
    LAWMPolicyConfig,
    LAWMProcessor,
)
from lawm_hf.data.images import decode_image
from lawm_hf.hub.lerobot_export import export_for_lerobot

pytest.importorskip("lerobot")

import draccus
from lerobot.common.train_utils import load_training_state, save_training_state
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.configs.parser import load_plugin
from lerobot.policies.factory import get_policy_class, make_pre_post_processors

from lawm_hf.lerobot.configuration_lawm import LeRobotLAWMConfig, option_names
from lawm_hf.lerobot.modeling_lawm import LeRobotLAWMPolicy, _scaled
from lawm_hf.models.configuration_lawm import _LEROBOT_KEYS

TASKS = ["go to the red cube", "go to the blue cube"]
STATS = {
    "state": {"min": -np.ones(8), "max": 2 * np.ones(8)},
    "actions": {"min": -3 * np.ones(7), "max": np.ones(7)},
}
SMALL = {"hidden_size": 32, "image_size": 32, "task_embed_size": 64}


def make_policy(kind: str, **options) -> LAWMPolicy:
    torch.manual_seed(0)
    if kind == "baku":
        options = {"num_layers": 1} | options
        return BakuPolicy(BakuConfig.from_preset("tabletop", **SMALL, **options)).eval()
    options = {"down_dims": (16, 32), "step_embed_size": 32} | options
    config = DiffusionPolicyConfig.from_preset("tabletop", **SMALL, **options)
    return DiffusionPolicy(config).eval()


def make_processor() -> LAWMProcessor:
    processor = LAWMProcessor(image_size=32, task_embed_size=64)
    processor.set_statistics(STATS)
    processor.center_tasks(TASKS)
    return processor


@pytest.fixture(params=["baku", "diffusion"])
def folder(request, tmp_path):
    make_policy(request.param).save_pretrained(tmp_path / "ours")
    make_processor().save_pretrained(tmp_path / "ours")
    export_for_lerobot(tmp_path / "ours", ["front", "observation.images.wrist"])
    return tmp_path / "ours"


def observation() -> dict:
    generator = torch.Generator().manual_seed(1)
    return {
        "observation.images.front": torch.rand(2, 3, 48, 64, generator=generator),
        "observation.images.wrist": torch.rand(2, 3, 32, 32, generator=generator),
        "observation.state": torch.rand(2, 8, generator=generator),
        "task": TASKS,
    }


def by_transformers(folder) -> torch.Tensor:
    from lawm_hf.models.images_lawm import resize

    policy, processor = LAWMPolicy.from_pretrained(folder), LAWMProcessor.from_pretrained(folder)
    o = observation()
    front, wrist = (o[f"observation.images.{v}"][:, None] for v in ("front", "wrist"))
    images = torch.cat([resize(front, 32, "front"), wrist], 1)
    torch.manual_seed(2)
    batch = processor(images=images, task=TASKS, state=o["observation.state"])
    return processor.unnormalize_actions(policy.predict_action_chunk(**batch))


def by_lerobot(folder, save_to=None) -> torch.Tensor:
    config = PreTrainedConfig.from_pretrained(folder)
    policy = get_policy_class(config.type).from_pretrained(folder, config=config)
    before, after = make_pre_post_processors(config, pretrained_path=str(folder))
    torch.manual_seed(2)
    chunk = after(policy.predict_action_chunk(before(observation())))
    if save_to:
        for part in (policy, before, after):
            part.save_pretrained(save_to)
    return chunk


def test_both_libraries_compute_the_same_actions_from_what_either_has_saved(folder, tmp_path):
    expected = by_transformers(folder)
    torch.testing.assert_close(by_lerobot(folder, tmp_path / "theirs"), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(by_transformers(tmp_path / "theirs"), expected, atol=1e-6, rtol=0)
    ours, theirs = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "theirs"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    # And once more through transformers.
    AutoModel.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "again")
    LAWMProcessor.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "again")
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        shutil.copy(tmp_path / "theirs" / name, tmp_path / "again")
    torch.testing.assert_close(by_lerobot(tmp_path / "again"), expected, atol=1e-6, rtol=0)


def test_the_exported_pipelines_are_those_that_lerobot_writes(folder, tmp_path):
    by_lerobot(folder, tmp_path / "theirs")
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        ours, theirs = (json.loads((f / name).read_text()) for f in (folder, tmp_path / "theirs"))
        assert ours == theirs


def test_every_key_that_lerobot_writes_is_known_to_our_configurations():
    assert {f.name for f in fields(LeRobotLAWMConfig)} - option_names() <= _LEROBOT_KEYS


def remove_statistics(folder):
    file = folder / "processor_config.json"
    config = json.loads(file.read_text())
    config["action_stats"] = None
    file.write_text(json.dumps(config))


def rename_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[0]
    weights["renamed"] = weights.pop(name)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def remove_the_weights(folder):
    (folder / "model.safetensors").unlink()


def remove_the_processor(folder):
    (folder / "processor_config.json").unlink()


@pytest.mark.parametrize(
    "mutilate", [remove_statistics, rename_a_weight, remove_the_weights, remove_the_processor]
)
@pytest.mark.parametrize("load", [by_transformers, by_lerobot])
def test_a_mutilated_folder_is_an_error_in_both_libraries(folder, mutilate, load):
    mutilate(folder)
    with pytest.raises((ValueError, OSError)):
        load(folder)


def new_policy(views=("front", "wrist"), state_size=6, **options):
    inputs = {
        f"observation.images.{v}": PolicyFeature(FeatureType.VISUAL, (3, 32, 32)) for v in views
    }
    if state_size:
        inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (state_size,))
    config = LeRobotLAWMConfig(
        device="cpu",
        input_features=inputs,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (5,))},
        **options,
    )
    statistics = {
        "observation.state": {"min": np.zeros(6), "max": np.ones(6)},
        "action": {"min": -np.ones(5), "max": np.ones(5)},
    }
    return get_policy_class("lawm")(config, dataset_stats=statistics)


def training_batch(size: int = 2) -> dict:
    return {
        "observation.images.front": torch.rand(size, 3, 32, 32),
        "observation.images.wrist": torch.rand(size, 3, 32, 32),
        "observation.state": torch.rand(size, 6),
        "action": torch.rand(size, 10, 5),
        "action_is_pad": torch.zeros(size, 10, dtype=torch.bool),
        "task": ["go"] * size,
    }


@pytest.fixture
def pretraining(tmp_path):
    policy = make_policy("baku", latent_norm="batch")
    world = DreamerV3WorldModel(
        DreamerV3Config.from_preset("tiny", deter_size=32, hidden_size=16, depth=8)
    )
    LawmForPretraining(policy, world).save_pretrained(tmp_path / "pretraining")
    LAWMProcessor(image_size=32, task_embed_size=64).save_pretrained(
        tmp_path / "pretraining/processor"
    )
    return tmp_path / "pretraining", policy


def test_a_latent_pretraining_run_starts_a_policy_for_another_robot(pretraining):
    folder, pretrained = pretraining
    policy = new_policy(pretrained_latent=str(folder))
    ours, theirs = policy.lawm.state_dict(), pretrained.state_dict()
    fresh = {k for k in ours if ours[k].shape != theirs[k].shape or not ours[k].equal(theirs[k])}
    state = {"proprioception.0.weight"}
    assert fresh <= {"action_head.weight", "action_head.bias"} | state | {
        k for k in ours if k.startswith("latent_norm")
    }
    assert policy.lawm.action_head.weight.shape[0] == 10 * 5
    loss, _ = policy.train().forward(training_batch())
    loss.backward()
    assert all(
        p.grad is not None for n, p in policy.named_parameters() if not n.startswith("processor")
    )


def test_options_given_beside_a_pretraining_run_hold_unless_they_change_its_weights(pretraining):
    folder, pretrained = pretraining
    options = {"aggregation": "uniform", "n_action_steps": 2, "dropout": 0.37}
    policy = new_policy(pretrained_latent=str(folder), **options)
    for config in (policy.config, policy.lawm.config):
        assert {k: getattr(config, k) for k in options} == options
    name = next(k for k in pretrained.state_dict() if "norm" not in k and "action" not in k)
    assert policy.lawm.state_dict()[name].equal(pretrained.state_dict()[name])
    with pytest.raises(ValueError, match=r"got other \['hidden_size'\] than in"):
        new_policy(pretrained_latent=str(folder), hidden_size=64)
    with pytest.raises(Exception, match="from 1 to `chunk_size` = 10, got 11"):
        new_policy(pretrained_latent=str(folder), n_action_steps=11)


@pytest.mark.parametrize(
    ("features", "state", "words"),
    [(5, 8, "'action': 5, 'state': 8"), (7, 6, "'action': 7, 'state': 6")],
)
def test_a_saved_policy_refuses_a_robot_of_other_sizes_and_says_what_to_do(
    folder, features, state, words
):
    config = PreTrainedConfig.from_pretrained(folder)
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (features,))}
    meta = SimpleNamespace(features={"observation.state": {"shape": (state,)}})
    with pytest.raises(ValueError, match=f"{words}.*policy.policy_type={folder} in place of"):
        get_policy_class("lawm").from_pretrained(folder, config=config, dataset_meta=meta)


def test_a_saved_policy_starts_one_for_a_robot_of_other_sizes_with_fresh_layers(folder):
    saved = LAWMPolicy.from_pretrained(folder).state_dict()
    policy = new_policy(("front", "wrist", "top"), policy_type=str(folder))
    config = policy.lawm.config
    assert (config.action_size, config.state_size, config.num_views) == (5, 6, 3)
    ours = policy.lawm.state_dict()
    other = {name for name in ours if ours[name].shape != saved[name].shape}
    fresh = {name for name in ours if name in other or not ours[name].equal(saved[name])}
    head = {f"{p}.{end}" for p in policy.lawm.action_head_prefixes for end in ("weight", "bias")}
    assert other
    assert fresh - other <= head
    assert all(weight.isfinite().all() for weight in ours.values())
    batch = training_batch() | {"observation.images.top": torch.rand(2, 3, 32, 32)}
    assert policy.train().forward(batch)[0].isfinite()


def test_a_saved_policy_keeps_its_last_layer_where_only_the_state_differs(folder):
    saved = LAWMPolicy.from_pretrained(folder)
    inputs = PreTrainedConfig.from_pretrained(folder).input_features
    del inputs["observation.state"]
    config = LeRobotLAWMConfig(
        device="cpu",
        policy_type=str(folder),
        input_features=inputs,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (7,))},
    )
    policy = get_policy_class("lawm")(config).lawm
    head = policy.named_part("action_head_prefixes")
    assert policy.config.state_size == 0
    before = saved.named_part("action_head_prefixes")
    assert all(weight.equal(before[name]) for name, weight in head.items())


def test_other_options_of_a_saved_policy_than_its_robots_sizes_cannot_change(folder):
    with pytest.raises(ValueError, match="must be of the sizes that the configuration says"):
        new_policy(policy_type=str(folder), hidden_size=64)


@pytest.mark.parametrize("given", [False, True])
def test_averaged_weights_are_saved_and_training_goes_on_with_its_own(tmp_path, given):
    policy = new_policy(policy_preset="tabletop", num_layers=1, ema_decay=0.9, **SMALL)
    policy.update()
    first = policy.lawm.action_head.weight.detach().clone()
    with torch.no_grad():
        for parameter in policy.lawm.parameters():
            parameter.add_(1.0)
    policy.update()
    now = {k: v.clone() for k, v in policy.lawm.state_dict().items()}
    # Given as LeRobot gives what it has gathered from several processes.
    policy.save_pretrained(tmp_path, state_dict=policy.state_dict() if given else None)
    saved = load_file(tmp_path / "model.safetensors")
    decay = 1 - 2**-0.75  # of the second update, while it warms up
    torch.testing.assert_close(saved["action_head.weight"], first + (1 - decay))
    assert all(v.equal(now[k]) for k, v in policy.lawm.state_dict().items())
    assert not (tmp_path / "training_weights.safetensors").exists()  # not a checkpoint


def learn(policy, optimizer, steps) -> None:
    for step in steps:
        torch.manual_seed(100 + step)
        policy.train().forward(training_batch())[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        policy.update()


def test_a_resumed_run_with_averaged_weights_is_the_one_that_was_never_interrupted(
    tmp_path, monkeypatch
):
    def optimizer_of(policy):
        return policy.config.get_optimizer_preset().build(policy.get_optim_params())

    folder = tmp_path / "000002/pretrained_model"
    policy = new_policy(policy_preset="tabletop", num_layers=1, ema_decay=0.9, **SMALL)
    optimizer = optimizer_of(policy)
    learn(policy, optimizer, [0, 1])
    policy.save_pretrained(folder)
    (folder / "train_config.json").write_text("{}")
    save_training_state(folder.parent, 2, optimizer)
    learn(policy, optimizer, [2, 3])
    policy.save_pretrained(tmp_path / "whole/pretrained_model")

    averaged = get_policy_class("lawm").from_pretrained(folder)
    assert averaged._average is None  # to act with, or to start another run from
    monkeypatch.setattr("sys.argv", ["train", f"--config_path={folder}/train_config.json"])
    resumed = get_policy_class("lawm").from_pretrained(folder)
    assert not resumed.lawm.action_head.weight.equal(averaged.lawm.action_head.weight)
    optimizer = optimizer_of(resumed)
    load_training_state(folder.parent, optimizer, None)
    learn(resumed, optimizer, [2, 3])
    resumed.save_pretrained(tmp_path / "resumed/pretrained_model")
    for name in ("model.safetensors", "training_weights.safetensors"):
        one, other = (
            load_file(tmp_path / run / "pretrained_model" / name) for run in ("whole", "resumed")
        )
        assert one.keys() == other.keys()
        assert all(value.equal(other[key]) for key, value in one.items()), name


def test_averages_of_shards_are_refused():
    policy = new_policy(policy_preset="tabletop", num_layers=1, ema_decay=0.9, **SMALL)
    weight = policy.lawm.action_head.weight
    weight.data = weight.data[:5]  # what FSDP leaves a process
    with pytest.raises(ValueError, match=r"shards.*ema_decay=0"):
        policy.update()


def test_a_policy_acts_step_by_step_and_asks_its_network_only_when_due():
    policy = new_policy(policy_preset="tabletop", num_layers=1, n_action_steps=3, **SMALL).eval()
    calls = []
    predict = policy.predict_action_chunk
    policy.predict_action_chunk = lambda batch: (calls.append(1), predict(batch))[1]
    batch = training_batch()
    for _ in range(7):
        assert policy.select_action(batch).shape == (2, 5)
    assert len(calls) == 3
    policy.reset()
    policy.select_action(batch)
    assert len(calls) == 4


def test_a_missing_camera_or_instruction_is_named():
    policy = new_policy(policy_preset="tabletop", num_layers=1, **SMALL).eval()
    batch = training_batch()
    del batch["observation.images.wrist"], batch["task"]
    with pytest.raises(ValueError, match=r"wrist.*task"):
        policy.select_action(batch)


def test_a_picture_that_is_not_rgb_is_named():
    policy = new_policy(policy_preset="tabletop", num_layers=1, **SMALL).eval()
    batch = training_batch()
    batch["observation.images.wrist"] = batch["observation.images.wrist"].movedim(-3, -1)
    with pytest.raises(ValueError, match=r"RGB, .*wrist.*Convert them"):
        policy.select_action(batch)


@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("shape", [(24, 20), (32, 32), (48, 64), (20, 40)])
def test_pictures_of_any_size_are_scaled_as_the_recipes_scale_them(shape, resize):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    ours = torch.tensor(decode_image(picture, 32, resize)) / 255
    theirs = _scaled(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255, 32, resize)
    torch.testing.assert_close(theirs[0], ours, atol=1.5 / 255, rtol=0)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_no_robot_gets_an_action_that_is_not_finite(number):
    policy = new_policy(policy_preset="tabletop", num_layers=1, **SMALL).eval()
    with torch.no_grad():
        policy.lawm.action_head.bias[0] = number
    policy.processor.action_normalizer.scale[0] = number
    with pytest.raises(ValueError, match="finite"):
        policy.select_action(training_batch())


def test_a_state_that_is_not_finite_is_refused():
    policy = new_policy(policy_preset="tabletop", num_layers=1, **SMALL).eval()
    batch = training_batch()
    batch["observation.state"][0, 1] = np.nan
    with pytest.raises(ValueError, match="finite"):
        policy.select_action(batch)


def lerobot_policy(**options) -> LeRobotLAWMPolicy:
    features = {
        "observation.images.front": PolicyFeature(type=FeatureType.VISUAL, shape=(3, 64, 64)),
        "observation.state": PolicyFeature(type=FeatureType.STATE, shape=(8,)),
    }
    config = LeRobotLAWMConfig(
        policy_preset="tabletop",
        device="cpu",
        input_features=features,
        output_features={"action": PolicyFeature(type=FeatureType.ACTION, shape=(7,))},
        **options,
    )
    return LeRobotLAWMPolicy(config, lawm=make_policy("baku"), processor=make_processor())


def test_what_lerobot_uploads_names_no_python_file(tmp_path):
    lerobot_policy().save_pretrained(tmp_path / "saved")
    for name in ("config.json", "processor_config.json"):
        assert "auto_map" not in json.loads((tmp_path / "saved" / name).read_text())
    assert not list((tmp_path / "saved").glob("*.py"))
    assert LAWMPolicy.from_pretrained(tmp_path / "saved").config.action_size == 7


@pytest.mark.parametrize(
    ("sources", "stated", "licence", "name"),
    [
        ("[tabletop:reach]", "cc0-1.0", "cc0-1.0", None),
        ("[lerobot:lerobot/libero]", "apache-2.0", "cc-by-4.0", None),
        ("[tabletop:reach]", None, "other", "data-unstated"),  # the demonstrations'
        ("['folder:/data/x']", "cc0-1.0", "other", "data-cc0-1.0-and-unstated"),
        (None, "apache-2.0", "other", "data-unstated"),
    ],
)
def test_a_card_of_lerobot_states_the_licence_of_all_data_and_the_code(
    tmp_path, monkeypatch, sources, stated, licence, name
):
    monkeypatch.setattr("huggingface_hub.ModelCard.validate", lambda self, **_: None)
    if sources:
        (tmp_path / "args.yaml").write_text(f"push_to_hub: me/base\nsources: {sources}\n")
    policy = lerobot_policy()
    policy.config.pretrained_latent = str(tmp_path)
    card = policy.generate_model_card("me/demos", "lawm", stated, ["mine"])
    assert (card.data.license, card.data.license_name) == (licence, name)
    assert card.data.base_model == ("me/base" if sources else None)
    assert {"lerobot", "robotics", "baku", "lawm", "mine"} <= set(card.data.tags)
    assert "me/demos" in card.data.datasets
    assert "`lawm_hf`" in card.text
    assert str(tmp_path.parent) not in str(card)


def test_lerobot_publishes_no_research_only_weights_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.ModelCard.validate", lambda self, **_: None)
    public = SimpleNamespace(repo_info=lambda name: SimpleNamespace(private=False))
    monkeypatch.setattr("lawm_hf.hub.HfApi", lambda: public)
    (tmp_path / "args.yaml").write_text("sources: [ssv2:DIR]\n")
    policy = lerobot_policy(repo_id="me/x")
    policy.config.pretrained_latent = str(tmp_path)
    with pytest.raises(ValueError, match=r"me/x.*policy\.private=false"):
        policy.generate_model_card("me/demos", "lawm", None, None)
    policy.config.private = False
    card = policy.generate_model_card("me/demos", "lawm", None, None)
    assert card.data.license_name == "data-ssv2-research-only-and-unstated"


@pytest.mark.parametrize("state_size", [0, 6])
@pytest.mark.parametrize("pretrained_state_size", [0, 8])
def test_pretraining_with_or_without_a_state_starts_policies_with_or_without_one(
    pretraining, state_size, pretrained_state_size
):
    folder, _ = pretraining
    policy = make_policy("baku", latent_norm="batch", state_size=pretrained_state_size)
    policy.save_pretrained(folder / "policy")
    policy = new_policy(pretrained_latent=str(folder), state_size=state_size)
    assert policy.lawm.config.state_size == policy.config.state_size == state_size
    assert policy.select_action(training_batch()).shape == (2, 5)


def test_where_sizes_change_no_number_is_left_to_what_was_in_memory(pretraining, monkeypatch):
    def filled(make):
        def nan(*args, **kwargs):
            tensor = make(*args, **kwargs)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

        return nan

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, filled(getattr(torch, name)))
    policy = new_policy(pretrained_latent=str(pretraining[0]))
    assert all(tensor.isfinite().all() for tensor in policy.state_dict().values())


def test_the_order_of_the_views_survives_both_libraries(tmp_path):
    order = ["wrist", "front"]  # Not that of the alphabet, which JSON files are sorted by.
    policy = new_policy(order, policy_preset="tabletop", num_layers=1, **SMALL).eval()
    torch.nn.init.normal_(policy.lawm.action_head.weight)
    batch = training_batch()
    expected = policy.predict_action_chunk(batch)
    policy.save_pretrained(tmp_path / "lerobot")
    AutoModel.from_pretrained(tmp_path / "lerobot").save_pretrained(tmp_path / "transformers")
    policy.processor.save_pretrained(tmp_path / "transformers")
    for name in ("lerobot", "transformers"):
        again = get_policy_class("lawm").from_pretrained(tmp_path / name)
        torch.testing.assert_close(again.predict_action_chunk(batch), expected)
        assert LAWMPolicy.from_pretrained(tmp_path / name).config.views == order
    export_for_lerobot(tmp_path / "transformers", ["wrist", "observation.images.front"])
    exported = PreTrainedConfig.from_pretrained(tmp_path / "transformers")
    assert [k.split(".")[-1] for k in exported.image_features] == order


def test_an_old_folder_without_an_order_keeps_that_of_its_features(folder):
    file = folder / "config.json"
    config = json.loads(file.read_text())
    del config["views"]
    file.write_text(json.dumps(config))
    features = PreTrainedConfig.from_pretrained(folder).image_features
    assert [key.split(".")[-1] for key in features] == ["front", "wrist"]


def test_an_order_of_other_cameras_is_refused():
    config = new_policy(policy_preset="tabletop", num_layers=1, **SMALL).config
    config.views = ["front", "top"]
    with pytest.raises(ValueError, match="must name the cameras"):
        config.validate_features()


STRANGER = """
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel

from lawm_hf import LAWMPolicy, LAWMPolicyConfig


@strict
class StrangerConfig(LAWMPolicyConfig):
    model_type = "lawm_stranger"
    stranger_width: int = 4


class StrangerPolicy(LAWMPolicy):
    config_class = StrangerConfig
    action_head_prefixes = ("head",)

    def __init__(self, config):
        super().__init__(config)
        self.body = nn.Linear(3, config.stranger_width)
        self.head = nn.Linear(config.stranger_width, config.chunk_size * config.action_size)
        self.post_init()

    def forward(self, pixel_values, task_embeds, **_):
        from lawm_hf.models.modeling_outputs import PolicyOutput

        return PolicyOutput(actions=self.bound(self.head(self.body(pixel_values.mean((1, 3, 4))))))


AutoConfig.register("lawm_stranger", StrangerConfig)
AutoModel.register(StrangerConfig, StrangerPolicy)
"""


@dataclass
class Command:
    policy: PreTrainedConfig


def test_a_policy_of_another_package_is_trained_saved_and_loaded_without_an_edit(
    tmp_path, monkeypatch
):
    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger/__init__.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(tmp_path)
    flags = ["--policy.type=lawm", "--policy.policy_type=stranger", "--policy.device=cpu"]
    with pytest.raises(draccus.ParsingError) as error:
        draccus.parse(Command, args=flags)
    assert "discover_packages_path" in str(error.value.__cause__)

    load_plugin("stranger")  # What `--my.discover_packages_path=stranger` does.
    config = draccus.parse(Command, args=[*flags, "--policy.stranger_width=6"]).policy
    options = {name: getattr(config, name) for name in ("policy_type", "stranger_width")}
    policy = new_policy(**options, image_size=32, task_embed_size=64).eval()
    assert policy.lawm.body.out_features == 6
    batch = training_batch()
    expected = policy.predict_action_chunk(batch)
    policy.save_pretrained(tmp_path / "saved")
    again = get_policy_class("lawm").from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(again.predict_action_chunk(batch), expected)
    ours = LAWMPolicy.from_pretrained(tmp_path / "saved")
    assert type(ours).__name__ == "StrangerPolicy"
    again = new_policy(policy_type=str(tmp_path / "saved"))
    assert again.lawm.body.weight.equal(ours.body.weight)


@pytest.mark.parametrize("options", [{}, {"elsewhere_width": 3}])
def test_a_saved_policy_whose_package_is_not_imported_says_which_to_import(tmp_path, options):
    saved = {"type": "lawm", "model_type": "lawm_elsewhere", "defined_in": "elsewhere", **options}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(ValueError, match=r"discover_packages_path=elsewhere"):
        PreTrainedConfig.from_pretrained(tmp_path)


def test_options_that_no_policy_or_another_policy_has_are_refused():
    with pytest.raises(TypeError, match="no_such_option"):
        LeRobotLAWMConfig(device="cpu", no_such_option=1)
    with pytest.raises(ValueError, match="is a variable of the shell not set"):
        LeRobotLAWMConfig(device="cpu", pretrained_latent="")
    with pytest.raises(ValueError, match="has no option `down_dims`"):
        LeRobotLAWMConfig(device="cpu", policy_type="baku", down_dims=[8])


def test_an_option_with_a_name_of_lerobots_is_refused():
    @strict
    class ClashConfig(LAWMPolicyConfig):
        model_type = "lawm_clash"
        device: str = "here"

    AutoConfig.register("lawm_clash", ClashConfig, exist_ok=True)
    with pytest.raises(ValueError, match="must not be named as LeRobot's"):
        LeRobotLAWMConfig(policy_type="clash")


DIFFUSION = {"down_dims": (16, 32), "step_embed_size": 32, "policy_type": "diffusion"}
ACT = {
    "policy_type": "lerobot:act",
    "act_options": {"dim_model": 16, "n_heads": 2, "dim_feedforward": 16, "n_encoder_layers": 1},
    "image_size": 32,
    "task_embed_size": 64,
}
VLM = {"policy_type": "vlm", "task_embed_size": 64, "hidden_size": 32, "num_expert_layers": 1}
KINDS = {"baku": {"num_layers": 1} | SMALL, "diffusion": DIFFUSION | SMALL, "act": ACT, "vlm": VLM}


def test_given_noise_decides_what_a_diffusion_policy_does():
    policy = new_policy(policy_preset="tabletop", **KINDS["diffusion"]).eval()
    batch = training_batch()
    noise = policy.lawm.draw_noise(2, torch.Generator().manual_seed(3))["noise"]
    generator = torch.Generator().manual_seed(3)
    observation = policy.processor(**policy._observation(batch))
    expected = policy.lawm.predict_action_chunk(generator=generator, **observation)
    expected = policy.processor.unnormalize_actions(expected)
    torch.testing.assert_close(policy.predict_action_chunk(batch, noise=noise), expected)
    torch.testing.assert_close(policy.select_action(batch, noise=noise), expected[:, 0])
    assert not policy.predict_action_chunk(batch, noise=-noise).allclose(expected)
    with pytest.raises(ValueError, match=r"shape of the chunks, \(2, 10, 5\)"):
        policy.predict_action_chunk(batch, noise=noise[:1])


def test_a_policy_that_draws_nothing_ignores_noise():
    policy = new_policy(policy_preset="tabletop", **KINDS["baku"]).eval()
    batch = training_batch()
    expected = policy.predict_action_chunk(batch)
    assert policy.predict_action_chunk(batch, noise=torch.randn(2, 10, 5)).equal(expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_policy_in_half_precision_acts_as_in_float32(kind, dtype):
    torch.manual_seed(0)
    policy = new_policy(policy_preset="tabletop", **KINDS[kind]).eval()
    for _, weight in policy.lawm.named_part("action_head_prefixes").items():
        torch.nn.init.normal_(weight, std=0.1)
    batch, noise = training_batch(), torch.randn(2, 10, 5)
    expected = policy.predict_action_chunk(batch, noise=noise)
    policy.to("cpu", dtype)
    chunk = policy.predict_action_chunk(batch, noise=noise)
    assert chunk.dtype == torch.float32
    torch.testing.assert_close(chunk, expected, atol=0.1, rtol=0)  # of actions in [-1, 1]
    loss, _ = policy.train().forward(training_batch())
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize("kind", ["baku", "diffusion"])
def test_compile_model_compiles_what_trains_and_what_acts(kind, monkeypatch):
    calls = []

    def compiled(function, **_):
        @functools.wraps(function)
        def run(*args, **kwargs):
            calls.append(function.__name__)
            return function(*args, **kwargs)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    policy = new_policy(policy_preset="tabletop", compile_model=True, **KINDS[kind])
    policy.train().forward(training_batch())
    assert calls[0] == "_call_impl"
    calls.clear()
    policy.predict_action_chunk(training_batch())
    # A diffusion policy's U-Net at each step: one graph of ten of them compiles without end.
    expected = {"diffusion": ["_call_impl"] * 10, "baku": ["predict_action_chunk", "_call_impl"]}
    assert calls == expected[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["baku", "diffusion"])
def test_compile_model_compiles_training_and_acting_and_changes_neither(kind, monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    plain, compiled = (
        new_policy(policy_preset="tabletop", augment=False, compile_model=c, **KINDS[kind]).eval()
        for c in (False, True)
    )
    compiled.lawm.load_state_dict(plain.lawm.state_dict())
    batch, noise = training_batch(), torch.randn(2, 10, 5)
    expected = plain.predict_action_chunk(batch, noise=noise)
    torch.testing.assert_close(compiled.predict_action_chunk(batch, noise=noise), expected)
    acting = len(graphs)
    losses = []
    for policy in (plain, compiled):
        torch.manual_seed(0)
        losses.append(policy.forward(batch)[0])
    torch.testing.assert_close(*losses)
    assert 0 < acting < len(graphs)
    learning = len(graphs)
    compiled.forward(training_batch(3))  # the last of an epoch
    assert len(graphs) == learning
    assert compiled.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_have_targets_in_every_policy(kind):
    policy = new_policy(policy_preset="tabletop", **KINDS[kind])
    targets = policy._get_default_peft_targets()
    modules = dict(policy.named_modules())
    assert len(targets["target_modules"]) > 5
    assert all(type(modules[n]).__name__ in {"Linear", "Conv1d"} for n in targets["target_modules"])
    heads = tuple(targets["modules_to_save"])
    assert heads
    assert not any(name.startswith(heads) for name in targets["target_modules"])


def test_an_adapter_learns_is_saved_with_the_statistics_of_its_data_and_loads(tmp_path):
    peft = pytest.importorskip("peft")
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    policy = new_policy(policy_preset="tabletop", augment=False, **KINDS["baku"])
    policy.save_pretrained(base)
    config = PreTrainedConfig.from_pretrained(base)
    config.pretrained_path = base
    statistics = {
        "observation.state": {"min": np.zeros(6), "max": np.ones(6)},
        "action": {"min": -4 * np.ones(5), "max": 4 * np.ones(5)},
    }
    policy = LeRobotLAWMPolicy.from_pretrained(base, config=config, dataset_stats=statistics)
    adapted = policy.wrap_with_peft(peft_cli_overrides={"method_type": "lora", "r": 4})
    learning = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "action_head" in name for name in learning)
    optimizer = torch.optim.AdamW(adapted.get_optim_params(), lr=0.01)
    for _ in range(2):
        adapted.train().forward(training_batch())[0].backward()
        optimizer.step()
    batch = training_batch()
    expected = adapted.predict_action_chunk(batch)
    adapted.save_pretrained(adapter)
    adapted.config.save_pretrained(adapter)  # as LeRobot does
    assert not list(adapter.glob("*.py"))

    config = PreTrainedConfig.from_pretrained(adapter)
    config.pretrained_path = adapter
    policy = LeRobotLAWMPolicy.from_pretrained(base, config=config)
    assert policy.processor.action_stats["max"] == [4.0] * 5
    again = peft.PeftModel.from_pretrained(policy, adapter).eval()
    torch.testing.assert_close(again.predict_action_chunk(batch), expected)


def test_averaged_weights_and_adapters_exclude_each_other():
    policy = new_policy(policy_preset="tabletop", ema_decay=0.9, **KINDS["baku"])
    policy.config.pretrained_path = "somewhere"
    with pytest.raises(ValueError, match=r"ema_decay=0"):
        policy._validate_peft_config(None)
