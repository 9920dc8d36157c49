# SPDX-License-Identifier: Apache-2.0
"""What LeRobot's commands take for granted of any policy, held for each of ours."""

import copy
import pickle

import pytest
import torch

pytest.importorskip("lerobot")

from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.policies.factory import get_policy_class
from lerobot.rollout.inference.rtc import supports_rtc_inference
from test_lerobot_policy import KINDS, new_policy, training_batch

from lawm_hf.lerobot.configuration_lawm import LeRobotLAWMConfig

NOISE = torch.randn(4, 10, 5, generator=torch.Generator().manual_seed(5))


@pytest.fixture(params=KINDS)
def policy(request):
    torch.manual_seed(0)
    policy = new_policy(policy_preset="tabletop", augment=False, **KINDS[request.param]).eval()
    for weight in policy.lawm.named_part("action_head_prefixes").values():
        torch.nn.init.normal_(weight, std=0.1)
    return policy


@pytest.fixture
def batch():
    torch.manual_seed(1)
    batch = training_batch(4)
    batch["action_is_pad"][:3, 4:] = True
    return batch


def test_neither_training_nor_acting_changes_a_batch(policy, batch):
    before = copy.deepcopy(batch)
    policy.train().forward(batch)
    policy.select_action(batch)
    assert batch.keys() == before.keys()
    for name, value in batch.items():
        assert value.equal(before[name]) if torch.is_tensor(value) else value == before[name]


def test_training_goes_on_after_acting_and_reaches_every_weight(policy, batch):
    with torch.inference_mode():  # in which LeRobot acts, between two updates of training
        policy.select_action(batch)
    loss, logged = policy.train().forward(batch)
    loss.backward()
    learning = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    assert [name for name, p in learning.items() if p.grad is None] == []
    assert all(isinstance(value, float) for value in logged.values())
    given = [id(p) for group in policy.get_optim_params() for p in group["params"]]
    assert len(given) == len(set(given))
    assert {id(p) for p in learning.values()} <= set(given)


def test_the_losses_of_samples_and_the_loss_leave_out_the_same_padding(policy, batch):
    losses = []
    for options in ({}, {"reduction": "none"}):
        torch.manual_seed(2)  # a diffusion policy draws
        losses.append(policy.forward(batch, **options)[0])
    loss, each = losses
    kept = (~batch["action_is_pad"]).sum(1)
    torch.testing.assert_close((each * kept).sum() / kept.sum(), loss)


def test_gathered_weights_are_saved_as_the_policys_own(policy, tmp_path):
    policy.save_pretrained(tmp_path / "own")
    policy.save_pretrained(tmp_path / "given", state_dict=policy.state_dict())
    files = [tmp_path / name / "model.safetensors" for name in ("own", "given")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert [f.name for f in files[0].parent.glob("*.safetensors*")] == ["model.safetensors"]
    saved = get_policy_class("lawm").from_pretrained(tmp_path / "own")
    assert not saved.training
    torch.testing.assert_close(saved.state_dict(), policy.state_dict(), atol=0, rtol=0)


def test_a_copy_acts_as_its_original(policy, batch):
    expected = policy.predict_action_chunk(batch, noise=NOISE)
    for again in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert again.predict_action_chunk(batch, noise=NOISE).equal(expected)


def test_pictures_may_be_bytes(policy, batch):
    as_bytes = dict(batch)
    for name in policy.config.image_features:
        as_bytes[name] = (batch[name] * 255).round().to(torch.uint8)
        batch[name] = as_bytes[name] / 255
    expected = policy.predict_action_chunk(batch, noise=NOISE)
    chunk = policy.predict_action_chunk(as_bytes, noise=NOISE)
    torch.testing.assert_close(chunk, expected, atol=0.02, rtol=0)  # resized, bytes are rounded


def test_autocast_trains_and_acts(policy, batch):
    expected = policy.predict_action_chunk(batch, noise=NOISE)
    with torch.autocast("cpu"):
        chunk = policy.predict_action_chunk(batch, noise=NOISE)
        loss, _ = policy.train().forward(batch)
    loss.backward()
    assert chunk.dtype == torch.float32
    torch.testing.assert_close(chunk, expected, atol=0.1, rtol=0)  # of actions in [-1, 1]
    assert all(p.grad.isfinite().all() for p in policy.parameters() if p.grad is not None)


@pytest.mark.parametrize("policy", ["baku", "diffusion", "act"], indirect=True)  # not SmolVLM
def test_every_tensor_is_made_where_the_weights_are(policy, batch):
    inputs = policy.processor(
        **policy._observation(batch), actions=batch["action"], action_is_pad=batch["action_is_pad"]
    )
    inputs = {name: value.to("meta") for name, value in inputs.items()}
    lawm = policy.to("meta").lawm
    assert lawm(**inputs).loss.device.type == "meta"
    del inputs["actions"], inputs["action_is_pad"]
    assert lawm.predict_action_chunk(**inputs).device.type == "meta"


def test_one_instruction_serves_all_samples(policy, batch):
    expected = policy.predict_action_chunk(batch, noise=NOISE)
    chunk = policy.predict_action_chunk(batch | {"task": batch["task"][0]}, noise=NOISE)
    assert chunk.equal(expected)


def test_a_rollout_that_compiles_acting_leaves_the_shell_alone(policy, batch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    expected = policy.predict_action_chunk(batch, noise=NOISE)
    policy.predict_action_chunk = torch.compile(policy.predict_action_chunk, backend=backend)
    assert policy.predict_action_chunk(batch, noise=NOISE).equal(expected)
    assert not graphs


def test_what_was_compiled_to_train_is_saved_for_machines_without_a_compiler(tmp_path):
    policy = new_policy(policy_preset="tabletop", compile_model=True, **KINDS["baku"])
    policy.save_pretrained(tmp_path)
    assert policy.config.compile_model
    assert not PreTrainedConfig.from_pretrained(tmp_path).compile_model


def test_real_time_chunking_is_not_claimed(policy):
    assert not supports_rtc_inference(policy)


def test_of_several_states_and_actions_the_whole_ones_count():
    shapes = {"observation.state.arm": 5, "observation.state": 6, "observation.state.hand": 1}
    inputs = {name: PolicyFeature(FeatureType.STATE, (n,)) for name, n in shapes.items()}
    inputs["observation.images.front"] = PolicyFeature(FeatureType.VISUAL, (3, 84, 84))
    shapes = {"action.arm": 3, "action.hand": 2, "action": 5}
    outputs = {name: PolicyFeature(FeatureType.ACTION, (n,)) for name, n in shapes.items()}
    options = {"policy_preset": "tabletop", **KINDS["baku"]}
    config = LeRobotLAWMConfig(
        device="cpu", input_features=inputs, output_features=outputs, **options
    )
    policy = get_policy_class("lawm")(config)
    assert (policy.lawm.config.state_size, policy.lawm.config.action_size) == (6, 5)
