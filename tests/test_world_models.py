# SPDX-License-Identifier: Apache-2.0
"""The world-model contract for DreamerV3 in its forms, and what the base classes refuse."""

import json

import pytest
import torch
from test_lawm import make_policy, make_world_model
from torch import nn
from transformers import AutoConfig, AutoModel
from world_model_contract import WorldModelContract

from lawm_hf.models import (
    BakuConfig,
    DreamerV3Config,
    DreamerV3WorldModel,
    LAWMForPretraining,
    LAWMPolicy,
    LAWMPolicyConfig,
    LAWMPretrainingConfig,
    LAWMWorldModel,
    PolicyOutput,
)
from lawm_hf.models.auto_lawm import new_objective, new_policy, new_world_model

TINY = {"image_size": 32, "action_size": 3, "deter_size": 32, "hidden_size": 16, "depth": 8}
TINY |= {"num_categoricals": 4, "num_classes": 4, "num_blocks": 1}


class TestImagination(WorldModelContract):
    world_model_class = DreamerV3WorldModel
    options = TINY


class TestPosterior(WorldModelContract):
    world_model_class = DreamerV3WorldModel
    options = TINY | {"training_states": "posterior", "free_nats": 0.0}


class Plain(LAWMPolicy):
    """A policy that names nothing, and bounds its chunk by itself."""

    config_class = LAWMPolicyConfig

    def __init__(self, config):
        super().__init__(config)
        self.layer = nn.Linear(config.task_embed_size, config.chunk_size * config.action_size)
        self.post_init()

    def forward(self, pixel_values, task_embeds, **kwargs):
        chunk = self.layer(task_embeds).tanh()
        shape = (self.config.chunk_size, self.config.action_size)
        return PolicyOutput(actions=chunk.unflatten(1, shape))


def plain(**options) -> Plain:
    sizes = {"chunk_size": 2, "action_size": 3, "task_embed_size": 4, "image_size": 32}
    return Plain(LAWMPolicyConfig(**(sizes | options)))


# ------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("method", ["reset_action_head", "freeze_vision"])
def test_a_policy_that_names_no_layer_is_refused_instead_of_left_as_it_is(method):
    with pytest.raises(ValueError, match=r"Plain.*must name modules"):
        getattr(plain(), method)()


def test_a_head_whose_numbers_stay_is_refused():
    class Stubborn(Plain):
        action_head_prefixes = ("layer",)

        def _init_weights(self, module):
            pass

    policy = Stubborn(plain().config)
    with pytest.raises(ValueError, match=r"Stubborn._init_weights.*numbers stayed"):
        policy.reset_action_head()


def test_a_policy_that_does_not_standardise_is_refused_where_it_is_asked_to():
    world_model = DreamerV3WorldModel(DreamerV3Config(**TINY))
    frames = torch.rand(2, 3, 3, 32, 32)
    observation = {"pixel_values": torch.rand(2, 1, 3, 32, 32), "task_embeds": torch.rand(2, 4)}
    LAWMForPretraining(plain(), world_model)(frames=frames, **observation)
    model = LAWMForPretraining(plain(latent_norm="batch"), world_model)
    with pytest.raises(ValueError, match=r"Plain.forward.*self.bound"):
        model(frames=frames, **observation)


def test_a_batch_of_one_is_refused_where_it_would_be_standardised():
    policy = make_policy("baku", latent_norm="batch").train()
    size = policy.config.image_size
    observation = {"pixel_values": torch.rand(1, 1, 3, size, size)}
    observation["task_embeds"] = torch.rand(1, policy.config.task_embed_size)
    with pytest.raises(ValueError, match="at least 2 samples"):
        policy(**observation)
    policy.eval()(**observation)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = make_world_model("imagination")
    with torch.no_grad():
        model.decoder.bias[0] = torch.nan
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"finite.*decoder.bias"):
        LAWMWorldModel.from_pretrained(tmp_path)


def test_the_package_to_import_is_named_for_a_model_from_elsewhere(tmp_path):
    config = BakuConfig().to_dict() | {"model_type": "their_policy", "defined_in": "their_package"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="--import their_package"):
        LAWMPolicy.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: new_policy("bakku"), r"policy_type.*Did you mean 'lawm_baku'"),
        (lambda: new_policy("dreamerv3"), "policy_type"),
        (lambda: new_world_model("dreamer"), r"world_model_type.*lawm_dreamerv3"),
        (lambda: new_objective("latents", None, None), r"objective.*lawm_pretraining"),  # type: ignore[arg-type]
    ],
)
def test_an_unknown_name_is_an_error_that_suggests_one(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# ------------------------------------------------------------------------ the pair as one model


@pytest.mark.parametrize("cut_gradient", [False, True])
def test_a_pair_saves_and_loads_as_one_by_every_entry(tmp_path, cut_gradient):
    pair = LAWMForPretraining(make_policy("baku"), make_world_model("posterior"), cut_gradient)
    pair.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is LAWMPretrainingConfig
    for entry in (LAWMForPretraining, AutoModel):
        loaded = entry.from_pretrained(tmp_path)
        assert loaded.config.cut_gradient is cut_gradient
        for name, tensor in pair.state_dict().items():
            torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_folder_of_before_has_no_configuration_of_the_pair_and_loads(tmp_path):
    pair = LAWMForPretraining(make_policy("baku"), make_world_model("imagination"))
    pair.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    world = tmp_path / "world_model/config.json"
    old = json.loads(world.read_text())
    old |= {"objective": old.pop("training_states"), "num_channels": 3}
    world.write_text(json.dumps(old))
    loaded = LAWMForPretraining.from_pretrained(tmp_path)
    assert loaded.world_model.config.training_states == "imagination"
    for name, tensor in pair.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)


def test_parameters_of_an_objective_are_saved_with_the_pair(tmp_path):
    class Weighted(LAWMForPretraining):
        config_class = WeightedConfig

        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.scale = nn.Parameter(torch.ones(1))

    AutoModel.register(WeightedConfig, Weighted, exist_ok=True)
    pair = new_objective("test_weighted", make_policy("baku"), make_world_model("imagination"))
    with torch.no_grad():
        pair.scale.fill_(3)
    pair.save_pretrained(tmp_path)
    loaded = LAWMForPretraining.from_pretrained(tmp_path)
    assert type(loaded) is Weighted
    assert loaded.scale.item() == 3


class WeightedConfig(LAWMPretrainingConfig):
    model_type = "test_weighted"


AutoConfig.register("test_weighted", WeightedConfig, exist_ok=True)


def test_a_folder_as_a_type_brings_its_weights(tmp_path):
    policy = make_policy("baku")
    policy.save_pretrained(tmp_path)
    again = new_policy(str(tmp_path))
    for name, tensor in policy.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_registered_name_wins_over_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "baku").mkdir()
    monkeypatch.chdir(tmp_path)
    assert type(new_policy("baku", "tabletop")).__name__ == "BakuPolicy"
