# SPDX-License-Identifier: Apache-2.0
"""BAKU: sizes, loss, vision, and whether it can tell which object is meant."""

import math
from typing import ClassVar

import pytest
import torch
from contract import OwnPolicyContract, make_inputs, make_observation
from safetensors.torch import save_file

from lawm_hf.models import modeling_vision
from lawm_hf.models.configuration_baku import BakuConfig
from lawm_hf.models.modeling_baku import BakuPolicy

TINY = {
    "chunk_size": 4,
    "action_size": 3,
    "state_size": 5,
    "task_embed_size": 12,
    "image_size": 32,
    "num_layers": 2,
    "num_keypoints": 4,
    "task_code_size": 8,
    "hidden_size": 16,
}
PATCH = {"stem": "patch", "encoder_channels": (16,), "encoder_depths": (1,)}
RESNET = {"stem": "resnet", "encoder_channels": (16, 32), "encoder_depths": (1, 2)}


class TestBakuPolicy(OwnPolicyContract):
    policy_class = BakuPolicy
    options: ClassVar = {**TINY, **PATCH}


@pytest.mark.parametrize("test", [n for n in dir(OwnPolicyContract) if "gradient" in n])
@pytest.mark.parametrize("kind", ["loss", "latents"])
def test_a_resnet_trunk_learns_in_all_its_parameters(test, kind):
    contract = TestBakuPolicy()
    contract.options = {**TINY, **RESNET}
    getattr(contract, test)(kind)


def make_policy(**overrides) -> BakuPolicy:
    torch.manual_seed(0)
    return BakuPolicy(BakuConfig(**{**TINY, **PATCH, **overrides})).eval()


# ------------------------------------------------------------------------------ sizes


@pytest.mark.parametrize(("preset", "count"), [("default", 7_751_558), ("tabletop", 1_047_430)])
def test_presets_have_the_documented_number_of_parameters(preset, count):
    with torch.device("meta"):
        policy = BakuPolicy(BakuConfig.from_preset(preset))
    assert sum(p.numel() for p in policy.parameters()) == count


def test_an_unknown_preset_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"default.*tabletop"):
        BakuConfig.from_preset("large")


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"num_heads": 3}, "multiple of `num_heads`"),
        ({"dropout": 1.0}, "dropout"),
        ({"action_std": 0.0}, "action_std"),
        ({"encoder_depths": (1, 1)}, "one entry per stage"),
        ({"stem": "resnet", "encoder_channels": (24,)}, "multiples of 16"),
        ({"backbone_weights": "microsoft/resnet-18"}, "ResNet"),
    ],
)
def test_impossible_options_are_refused_by_rule(options, rule):
    with pytest.raises(Exception, match=rule):
        BakuConfig(**{**TINY, **PATCH, **options})


# ------------------------------------------------------------------------------ loss


def test_the_loss_is_the_negative_log_likelihood_of_a_normal_distribution():
    policy = make_policy()
    inputs = make_inputs(policy.config)
    output = policy(**inputs)
    expected = -torch.distributions.Normal(output.actions, 0.1).log_prob(inputs["actions"])
    torch.testing.assert_close(output.action_loss, expected.mean(-1))
    torch.testing.assert_close(output.loss, expected[:, :-1].mean())  # the last step is padding


def test_a_perfect_prediction_costs_the_entropy_constant():
    policy = make_policy()
    observation = make_observation(policy.config)
    perfect = policy(**observation).actions.detach()
    loss = policy(**observation, actions=perfect).loss
    assert loss.item() == pytest.approx(math.log(0.1) + 0.5 * math.log(2 * math.pi))


def test_dropout_acts_in_training_only():
    policy = make_policy(dropout=0.5)
    observation = make_observation(policy.config)
    assert torch.equal(policy(**observation).actions, policy(**observation).actions)
    policy.train()
    assert not torch.equal(policy(**observation).actions, policy(**observation).actions)


# ------------------------------------------------------------------------------ inputs


def test_views_are_told_apart():
    policy = make_policy()
    observation = make_observation(policy.config)
    swapped = observation | {"pixel_values": observation["pixel_values"].flip(1)}
    assert not torch.allclose(policy(**observation).actions, policy(**swapped).actions)


def test_the_length_of_an_instruction_embedding_does_not_matter():
    policy = make_policy()
    observation = make_observation(policy.config)
    longer = observation | {"task_embeds": 22.6 * observation["task_embeds"]}
    torch.testing.assert_close(policy(**observation).actions, policy(**longer).actions)


def test_a_policy_without_proprioception_does_not_look_at_the_state():
    policy = make_policy(state_size=0)
    observation = make_observation(TestBakuPolicy().config())
    expected = policy(**observation).actions
    observation["state"] += 1
    torch.testing.assert_close(policy(**observation).actions, expected)


# ------------------------------------------------------------------------------ ImageNet


def write_backbone(folder, policy: BakuPolicy, names: tuple[str, str], scale: float = 1.0) -> None:
    """Write the policy's convolutions times `scale`, named as some library names them."""
    main, shortcut = names
    counts, weights = {False: 0, True: 0}, {"classifier.weight": torch.zeros(3, 3)}
    for module in policy.vision.modules():
        if isinstance(module, torch.nn.Conv2d):
            is_shortcut = module.kernel_size == (1, 1)
            name = (shortcut if is_shortcut else main).format(counts[is_shortcut])
            counts[is_shortcut] += 1
            weights[name] = scale * module.weight.detach()
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "model.safetensors")


def convolutions(policy: BakuPolicy) -> list[torch.Tensor]:
    return [m.weight for m in policy.vision.modules() if isinstance(m, torch.nn.Conv2d)]


# Shortcuts sort before, between or after the other layers, depending on the library.
@pytest.mark.parametrize(
    "names", [("layer{}", "a{}"), ("layer{}", "layer0.down{}"), ("a{}", "z{}")]
)
def test_a_new_policy_takes_convolutions_from_a_backbone(tmp_path, names):
    source = make_policy(**RESNET)
    write_backbone(tmp_path, source, names, scale=2)
    policy = make_policy(**RESNET, backbone_weights=str(tmp_path))
    for ours, theirs in zip(convolutions(policy), convolutions(source), strict=True):
        torch.testing.assert_close(ours, 2 * theirs)


def test_a_saved_policy_never_reads_its_backbone_again(tmp_path, monkeypatch):
    write_backbone(tmp_path / "backbone", make_policy(**RESNET), ("a{}", "z{}"), scale=2)
    policy = make_policy(**RESNET, backbone_weights=str(tmp_path / "backbone"))
    with torch.no_grad():
        convolutions(policy)[0].add_(1)
    policy.save_pretrained(tmp_path / "policy")
    monkeypatch.setattr(modeling_vision, "load_backbone", lambda *_: pytest.fail("was read"))
    loaded = BakuPolicy.from_pretrained(tmp_path / "policy")
    torch.testing.assert_close(convolutions(loaded)[0], convolutions(policy)[0])
    loaded.reset_action_head()


def test_a_backbone_of_other_shapes_is_refused(tmp_path):
    write_backbone(tmp_path, make_policy(**RESNET), ("a{}", "z{}"))
    other = {**RESNET, "encoder_channels": (32, 32)}
    with pytest.raises(ValueError, match="must hold a ResNet with convolutions"):
        make_policy(**other, backbone_weights=str(tmp_path))


# ------------------------------------------------------------------------------ binding


def make_squares(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures of 4 coloured squares at random places, the colour meant, and where it is."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.tensor([[2.0, -1, -1], [-1, 2, -1], [-1, -1, 2], [2, 2, -1]])
    pictures = torch.zeros(count, 3, 8, 8)
    cells = torch.rand(count, 64, generator=generator).argsort(1)[:, :4]  # (count, 4)
    for colour in range(4):
        pictures.flatten(2)[torch.arange(count), :, cells[:, colour]] = colours[colour]
    meant = torch.randint(4, (count,), generator=generator)
    cell = cells[torch.arange(count), meant]
    xy = torch.stack([cell % 8, cell // 8], dim=1) / 3.5 - 1
    return pictures.repeat_interleave(8, 2).repeat_interleave(8, 3)[:, None], meant, 0.9 * xy


def fit_squares(words: torch.Tensor, steps: int) -> float:
    """Train to reach the square that is meant; the R2 of its place on new pictures."""
    torch.manual_seed(0)
    policy = BakuPolicy(
        BakuConfig.from_preset(
            "tabletop",
            hidden_size=32,
            num_layers=1,
            chunk_size=1,
            action_size=2,
            state_size=0,
            task_embed_size=words.shape[1],
        )
    )
    pictures, meant, places = make_squares(1000, seed=1)
    vision = list(policy.vision.parameters())
    rest = [p for n, p in policy.named_parameters() if not n.startswith("vision")]
    optimizer = torch.optim.AdamW([{"params": vision, "lr": 3e-3}, {"params": rest, "lr": 1e-3}])
    for _ in range(steps):
        chosen = torch.randint(1000, (64,))
        loss = policy(pictures[chosen], words[meant[chosen]], actions=places[chosen, None]).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 10.0)
        optimizer.step()
    pictures, meant, places = make_squares(500, seed=2)
    found = policy.eval().predict_action_chunk(pixel_values=pictures, task_embeds=words[meant])
    return 1 - ((found[:, 0] - places).square().mean() / places.var(0).mean()).item()


def test_the_policy_learns_which_object_is_meant():
    assert fit_squares(torch.eye(4, 16), steps=120) > 0.9


def test_without_words_it_cannot_know_which_object_is_meant():
    assert fit_squares(torch.ones(4, 16), steps=120) < 0.5
