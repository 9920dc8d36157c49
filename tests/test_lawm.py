# SPDX-License-Identifier: Apache-2.0
"""The paper in tests: joint pretraining, its gradient and alignment, and what finetuning keeps."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lawm_hf import (
    BakuConfig,
    BakuPolicy,
    DiffusionPolicy,
    DiffusionPolicyConfig,
    DreamerV3Config,
    DreamerV3WorldModel,
    LawmForPretraining,
    LAWMPolicy,
)
from lawm_hf.models.modeling_outputs import LatentNorm

POLICIES = {"baku": (BakuConfig, BakuPolicy), "diffusion": (DiffusionPolicyConfig, DiffusionPolicy)}
OBJECTIVES = ["posterior", "imagination"]
SIZES = {"chunk_size": 4, "image_size": 32, "hidden_size": 32, "task_embed_size": 16}


def make_policy(name: str, **options) -> LAWMPolicy:
    torch.manual_seed(0)
    config_class, policy_class = POLICIES[name]
    small = {"num_layers": 2} if name == "baku" else {"down_dims": [16, 32]}
    config = config_class.from_preset("tabletop", **SIZES, **small, **options)
    return policy_class(config)


def make_world_model(objective: str, **options) -> DreamerV3WorldModel:
    torch.manual_seed(1)
    config = DreamerV3Config.from_preset(
        "tiny",
        **{"deter_size": 32, "hidden_size": 16, "depth": 8, "objective": objective} | options,
    )
    return DreamerV3WorldModel(config)


def make_batch(batch_size: int = 6, num_steps: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "pixel_values": torch.randn(batch_size, 2, 3, 32, 32, generator=generator),
        "task_embeds": torch.randn(batch_size, 16, generator=generator),
        "state": torch.randn(batch_size, 8, generator=generator),
        "frames": torch.rand(batch_size, num_steps + 1, 3, 32, 32, generator=generator),
        "frame_is_pad": torch.zeros(batch_size, num_steps + 1, dtype=torch.bool),
    }


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_parameter_receives_gradient_from_the_world_model_loss(name, objective):
    model = LawmForPretraining(make_policy(name, latent_norm="batch"), make_world_model(objective))
    model(**make_batch()).loss.backward()
    for parameter_name, parameter in model.policy.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", POLICIES)
def test_each_latent_action_the_first_included_receives_gradient(name, objective):
    model = LawmForPretraining(make_policy(name), make_world_model(objective))
    outputs = model(**make_batch())
    gradient = torch.autograd.grad(outputs.loss, outputs.latents)[0]  # (B, N, A)
    assert (gradient.abs().sum((0, 2)) > 0).all()


@pytest.mark.parametrize("name", POLICIES)
def test_latents_are_bounded_and_have_the_shape_of_the_chunk(name):
    latents = make_policy(name, latent_norm="batch")(
        **{k: v for k, v in make_batch().items() if not k.startswith("frame")}
    ).actions
    assert latents.shape == (6, 4, 7)
    assert latents.abs().max() <= 1


def test_detaching_the_latents_would_be_noticed():
    """The released code detaches them; then no policy parameter has a gradient."""
    model = LawmForPretraining(make_policy("baku"), make_world_model("posterior"))
    batch = make_batch()
    observation = {k: v for k, v in batch.items() if not k.startswith("frame")}
    latents = model.policy(**observation).actions.detach()
    model.world_model(batch["frames"], latents).loss.backward()
    assert all(p.grad is None for p in model.policy.parameters())


def test_the_control_that_cuts_the_gradient_trains_the_world_model_alone():
    """So its policy is a fresh one after any number of updates, as with the released code."""
    model = LawmForPretraining(make_policy("baku"), make_world_model("imagination"), True)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        model(**make_batch()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, value in model.policy.state_dict().items():
        if "running_" not in name:  # Those are forgotten with the last layer.
            assert torch.equal(value, before[name]), name
    fresh = make_world_model("imagination").state_dict()
    assert any(not torch.equal(v, fresh[k]) for k, v in model.world_model.state_dict().items())


def test_a_policy_and_a_world_model_of_different_action_sizes_are_refused():
    with pytest.raises(ValueError, match="action_size"):
        LawmForPretraining(make_policy("baku"), make_world_model("posterior", action_size=3))


@pytest.mark.parametrize("name", POLICIES)
def test_finetuning_reinitialises_exactly_the_last_layer(name):
    policy = make_policy(name, latent_norm="batch")
    for parameter in policy.parameters():  # away from any initial value
        torch.nn.init.normal_(parameter)
    before = copy.deepcopy(dict(policy.named_parameters()))
    changed = set(policy.reset_action_head())
    assert changed
    for parameter_name, parameter in policy.named_parameters():
        is_same = torch.equal(parameter, before[parameter_name])
        assert is_same == (parameter_name not in changed), parameter_name
    last = [n for n in changed if n.endswith("weight")]
    assert len(last) == 1
    assert policy.config.latent_norm == "none"


@pytest.mark.parametrize("name", POLICIES)
def test_a_pretraining_run_saves_a_policy_that_the_entry_point_loads(name, tmp_path):
    policy = make_policy(name, latent_norm="batch")
    LawmForPretraining(policy, make_world_model("imagination")).save_pretrained(tmp_path)
    loaded = LAWMPolicy.from_pretrained(tmp_path, subfolder="policy")
    assert type(loaded) is POLICIES[name][1]
    assert loaded.config.latent_norm == "batch"
    for (key, ours), theirs in zip(
        policy.state_dict().items(), loaded.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), key


def test_the_entry_point_refuses_a_folder_that_is_not_a_policy(tmp_path):
    LawmForPretraining(make_policy("baku"), make_world_model("posterior")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="subfolder"):
        LAWMPolicy.from_pretrained(tmp_path / "world_model")


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [
        ("no/such", "", "got 'no/such': no folder of that name in .* Of the Hub"),
        ("./no", "", "no folder of that name in"),
        ("empty", "", "'.*empty' must be what a finished run has written, got: no config.json"),
        ("empty", "policy", "no policy/config.json, which a pretraining run has"),
        ("file", "", "file': a file"),
    ],
)
def test_a_wrong_address_is_told_as_what_it_is(tmp_path, name, part, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    address = tmp_path / name if (tmp_path / name).exists() else name
    with pytest.raises(OSError, match=message):
        LAWMPolicy.from_pretrained(address, subfolder=part)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: [], "a mapping, got something else"),
        (lambda c: c | {"aggregation": "unifrom"}, "expected one of .*got unifrom"),
        (lambda c: c | {"n_action_steps": 99}, "from 1 to `chunk_size` = 4, got 99"),
        (lambda c: c | {"hidden_size": "64"}, "'hidden_size' expected int, got str"),
    ],
)
def test_a_configuration_that_was_edited_wrongly_is_named(tmp_path, change, message):
    make_policy("baku").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=f"config.json of '{tmp_path}' must hold.*{message}"):
        LAWMPolicy.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>", bytes(999)])
def test_damaged_weights_are_named(tmp_path, content):
    make_policy("baku").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=rf"weights in '{tmp_path}' must be whole"):
        LAWMPolicy.from_pretrained(tmp_path)


def test_the_latent_norm_keeps_outputs_from_saturating_and_from_collapsing():
    norm = LatentNorm(3).train()
    saturated = torch.tensor([100.0, 0.0, -3.0]) + torch.tensor([0.01, 5.0, 1.0]) * torch.randn(
        64, 3
    )
    out = norm(saturated)
    assert out.mean(0).abs().max() < 1e-3
    assert (out.std(0) - 1).abs().max() < 0.7  # the epsilon shows where the spread is 0.01


def gradients(rank: int, world_size: int, wrap=lambda model: model) -> dict[str, torch.Tensor]:
    """Gradients of both objectives on this rank's share of one global batch."""
    found = {}
    for objective in OBJECTIVES:
        policy = make_policy("baku", latent_norm="batch")
        model = LawmForPretraining(policy, make_world_model(objective))
        model.world_model.eval()  # the most likely classes: no sampling noise
        batch = {k: v[rank::world_size] for k, v in make_batch(8).items()}
        wrapped = wrap(model)  # kept: the gradient is averaged by hooks that go with the wrapper
        wrapped(**batch).loss.backward()
        found |= {f"{objective} {k}": p.grad for k, p in model.named_parameters()}
    return found


_ONE_OF_TWO = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from test_lawm import gradients
from torch.nn.parallel import DistributedDataParallel
dist.init_process_group("gloo")
found = gradients(dist.get_rank(), 2, DistributedDataParallel)
if dist.get_rank() == 0:
    torch.save(found, sys.argv[2])
dist.destroy_process_group()
"""


def test_two_processes_compute_the_gradient_of_one(tmp_path):
    script, out = tmp_path / "run.py", tmp_path / "gradients.pt"
    script.write_text(_ONE_OF_TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    subprocess.run(
        [*command, str(script), str(Path(__file__).parent), str(out)],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    of_two = torch.load(out, weights_only=True)
    of_one = gradients(0, 1)
    largest = max(gradient.abs().max() for gradient in of_one.values())
    for name, expected in of_one.items():
        torch.testing.assert_close(of_two[name], expected, rtol=1e-3, atol=1e-6 * largest.item())


def test_weights_of_other_sizes_than_the_configuration_says_are_named(tmp_path):
    make_policy("baku").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chunk_size": 5}))
    with pytest.raises(ValueError, match=rf"weights in '{tmp_path}' must be of the sizes"):
        LAWMPolicy.from_pretrained(tmp_path)


@pytest.mark.parametrize("change", [{"model_type": ["lawm_baku"]}, {"dtype": "float12"}, None])
def test_a_configuration_that_cannot_be_one_is_named(change, tmp_path):
    make_policy("baku").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    text = json.dumps(json.loads(path.read_text()) | change) if change else "[" * 100_000
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"config.json of '{tmp_path}' must hold a"):
        LAWMPolicy.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", [torch.int8, torch.bool])
def test_weights_that_were_saved_as_whole_numbers_are_refused(kind, tmp_path):
    make_policy("baku").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    rounded = {name: tensor.to(kind) for name, tensor in load_file(path).items()}
    save_file(rounded, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="must be saved as floating-point numbers"):
        LAWMPolicy.from_pretrained(tmp_path)


def test_a_folder_without_weights_says_that_its_run_has_not_ended(tmp_path):
    make_policy("baku").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match=rf"'{tmp_path}' must be what a finished run has written"):
        LAWMPolicy.from_pretrained(tmp_path)
