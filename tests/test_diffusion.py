# SPDX-License-Identifier: Apache-2.0
"""Diffusion Policy: its loss, its sampler, its latent actions."""

import math

import pytest
import torch
from contract import OwnPolicyContract, make_inputs, make_observation
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from lawm_hf.models import LAWMPolicy
from lawm_hf.models.configuration_diffusion import DiffusionPolicyConfig
from lawm_hf.models.modeling_diffusion import DiffusionPolicy, repeat_last_action

TINY = {
    "chunk_size": 6,
    "action_size": 3,
    "state_size": 5,
    "task_embed_size": 12,
    "image_size": 32,
    "stem": "patch",
    "encoder_channels": (16,),
    "encoder_depths": (1,),
    "num_keypoints": 4,
    "task_code_size": 8,
    "hidden_size": 16,
    "down_dims": (16, 32),
    "step_embed_size": 16,
}
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")


class TestDiffusionPolicy(OwnPolicyContract):
    policy_class = DiffusionPolicy
    options = TINY


def make_policy(**options) -> DiffusionPolicy:
    torch.manual_seed(0)
    return DiffusionPolicy(DiffusionPolicyConfig(**{**TINY, **options})).eval()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------ the network


def test_the_default_unet_is_the_authors_to_the_parameter():
    with torch.device("meta"):
        policy = DiffusionPolicy(DiffusionPolicyConfig())
    assert sum(p.numel() for p in policy.unet.parameters()) == 49_879_815


def test_the_tabletop_preset_is_small():
    with torch.device("meta"):
        policy = DiffusionPolicy(DiffusionPolicyConfig.from_preset("tabletop", chunk_size=7))
    assert sum(p.numel() for p in policy.parameters()) < 2_000_000
    assert policy.config.chunk_size == 7


def test_the_tabletop_preset_predicts_the_clean_chunk_and_the_default_the_noise():
    presets = [DiffusionPolicyConfig.from_preset(name) for name in ("tabletop", "default")]
    assert [preset.prediction_type for preset in presets] == ["sample", "epsilon"]


def test_an_unknown_preset_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"default.*tabletop"):
        DiffusionPolicyConfig.from_preset("large")


@pytest.mark.parametrize("length", [1, 7, 10, 16])
def test_any_chunk_size_goes_through_the_unet(length):
    policy = make_policy(chunk_size=length, down_dims=(16, 16, 32))
    inputs, observation = make_inputs(policy.config), make_observation(policy.config)
    assert policy(**observation).actions.shape == (3, length, 3)
    assert policy(**inputs).action_loss.shape == (3, length)
    assert policy.predict_action_chunk(**observation).shape == (3, length, 3)


def test_the_step_embedding_tells_all_steps_apart():
    embedding = make_policy().unet.step_embedding
    embeddings = embedding(torch.arange(100))
    distances = torch.cdist(embeddings, embeddings) + torch.eye(100)
    assert distances.min() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_schedule_is_diffusers_also_in_a_loaded_policy_of_any_dtype(tmp_path, dtype):
    policy = make_policy(prediction_type="v_prediction")
    policy.save_pretrained(tmp_path)
    loaded = LAWMPolicy.from_pretrained(tmp_path).to(dtype)
    theirs = DDPMScheduler(beta_schedule="squaredcos_cap_v2", num_train_timesteps=100)
    table = loaded.signal_bits.view(torch.float32)
    assert torch.equal(table, theirs.alphas_cumprod)
    assert loaded._signals == theirs.alphas_cumprod.tolist()


@pytest.mark.parametrize(
    ("option", "value"),
    [("down_dims", (12,)), ("down_dims", ()), ("kernel_size", 4), ("num_inference_steps", 101)],
)
def test_impossible_sizes_are_refused_by_name(option, value):
    with pytest.raises(Exception, match=option):
        DiffusionPolicyConfig(**{option: value})


def test_an_absent_view_differs_from_an_empty_one():
    policy = make_policy()
    observation = make_observation(policy.config)
    observation["pixel_values"][:, 1] = 0
    empty = policy(**observation).actions
    absent = policy(**observation, view_mask=torch.tensor([[True, False]] * 3)).actions
    assert (empty - absent).abs().max() > 1e-3


def test_a_policy_without_state_ignores_one():
    policy = make_policy(state_size=0)
    observation = make_observation(make_policy().config)
    expected = policy(**observation).actions
    del observation["state"]
    torch.testing.assert_close(policy(**observation).actions, expected)


# ------------------------------------------------------------------------------ the loss


def cosine_signal(step: torch.Tensor) -> torch.Tensor:
    """Product of `1 - beta` of the squared-cosine schedule, written out."""
    angles = [(i / 100 + 0.008) / 1.008 * math.pi / 2 for i in range(101)]
    f = [math.cos(angle) ** 2 for angle in angles]
    factors = [1 - min(1 - f[i + 1] / f[i], 0.999) for i in range(100)]
    return torch.tensor(factors, dtype=torch.float64).cumprod(0)[step].float()[:, None, None]


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_loss_is_the_error_of_the_prediction_at_a_random_step(prediction_type):
    policy = make_policy(prediction_type=prediction_type)
    inputs = make_inputs(policy.config)
    torch.manual_seed(5)
    output = policy(**inputs)

    torch.manual_seed(5)
    actions = inputs["actions"].clone()
    actions[:, -1] = actions[:, -2]  # the last one is padding
    noise, steps = torch.randn_like(actions), torch.randint(100, (3,))
    a = cosine_signal(steps)
    noisy = a.sqrt() * actions + (1 - a).sqrt() * noise
    prediction = policy.unet(noisy, steps, policy.encode(**make_observation(policy.config)))
    target = {
        "epsilon": noise,
        "sample": actions,
        "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * actions,
    }[prediction_type]
    expected = (prediction - target).square().mean(-1)
    torch.testing.assert_close(output.action_loss, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.loss, expected[:, :-1].mean(), atol=1e-5, rtol=1e-4)
    assert output.actions is None


def test_padding_repeats_the_last_real_action():
    actions = torch.arange(5.0)[None, :, None]
    is_pad = torch.tensor([[False, False, False, True, True]])
    assert repeat_last_action(actions, is_pad).flatten().tolist() == [0, 1, 2, 2, 2]


# ------------------------------------------------------------------------------ the sampler


def test_ddim_visits_every_tenth_step_down_to_zero(monkeypatch):
    policy, visited = make_policy(), []
    unet = policy.unet.forward

    def spy(sample, timesteps, condition):
        visited.append(timesteps[0].item())
        return unet(sample, timesteps, condition)

    monkeypatch.setattr(policy.unet, "forward", spy)
    policy.predict_action_chunk(**make_observation(policy.config))
    assert visited == [90, 80, 70, 60, 50, 40, 30, 20, 10, 0]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_generator_makes_the_chunk_repeatable(sampler):
    policy = make_policy(sampler=sampler)
    observation = make_observation(policy.config)
    first, again, other = (
        policy.predict_action_chunk(**observation, generator=seeded(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def train_unet(policy: DiffusionPolicy, condition, draw_actions, updates: int) -> torch.Tensor:
    """Train for given conditions (no pictures: those cost time), and sample for the same."""
    policy.encode = lambda *args, **kwargs: condition
    optimizer = torch.optim.Adam(policy.unet.parameters(), lr=5e-3, fused=True)
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - update / updates)
        policy(None, None, actions=draw_actions()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return policy.predict_action_chunk(generator=seeded(0))


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_the_sampler_recovers_the_chunk_of_each_condition(prediction_type):
    policy = make_policy(prediction_type=prediction_type, down_dims=(32,))
    condition = torch.randn(2, 32, generator=seeded(1)).repeat_interleave(16, 0)
    chunks = 0.8 * torch.rand(2, 6, 3, generator=seeded(2)).repeat_interleave(16, 0)
    sampled = train_unet(policy, condition, lambda: chunks, updates=120)
    assert (sampled - chunks).abs().mean() < 0.5 * (chunks - chunks.flip(0)).abs().mean()
    assert (sampled - chunks).abs().mean() < 0.15


def test_the_sampler_keeps_two_modes_apart_instead_of_averaging_them():
    policy = make_policy(action_size=1, chunk_size=2, down_dims=(32,))

    def draw_actions() -> torch.Tensor:
        return (1.2 * torch.randint(2, (64, 1, 1)) - 0.6).expand(64, 2, 1)

    sampled = train_unet(policy, torch.zeros(64, 32), draw_actions, updates=150)
    assert (sampled.abs() - 0.6).abs().mean() < 0.2
    assert 0.2 < (sampled[:, 0] > 0).float().mean() < 0.8


# ------------------------------------------------------------------------------ latent actions


@pytest.mark.parametrize("num_latent_steps", [1, 3])
@pytest.mark.parametrize("latent_norm", ["none", "batch"])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_latents_are_bounded_and_teach_every_parameter(
    latent_norm, prediction_type, num_latent_steps
):
    policy = make_policy(
        latent_norm=latent_norm,
        prediction_type=prediction_type,
        num_latent_steps=num_latent_steps,
    ).train()
    latents = policy(**make_observation(policy.config)).actions
    assert latents.shape == (3, 6, 3)
    assert latents.abs().max() <= 1
    (latents * torch.randn_like(latents)).sum().backward()
    untaught = [n for n, p in policy.named_parameters() if p.grad is None or not p.grad.any()]
    assert untaught == []


def test_each_latent_action_depends_on_the_observation():
    policy = make_policy()
    latents = policy(**make_observation(policy.config)).actions
    assert (latents.std(dim=0) > 1e-4).all()


def test_latents_do_not_depend_on_the_rest_of_the_batch_in_evaluation():
    policy = make_policy(latent_norm="batch").train()
    observation = make_observation(policy.config)
    policy(**observation)  # gives the norm its statistics
    together = policy.eval()(**observation).actions
    alone = policy(**{key: value[:1] for key, value in observation.items()}).actions
    torch.testing.assert_close(alone, together[:1])


def test_the_authors_latents_are_random_whatever_the_observation():
    policy = make_policy(latent_generator="authors")
    observation = make_observation(policy.config)
    first, second = policy(**observation).actions, policy(**observation).actions
    assert (first - second).abs().mean() > 0.3


@pytest.mark.parametrize("num_latent_steps", [1, 2, 4])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_a_network_that_knows_the_chunk_gives_it_as_latents(
    prediction_type, num_latent_steps, monkeypatch
):
    policy = make_policy(prediction_type=prediction_type, num_latent_steps=num_latent_steps)
    chunk = 0.5 * torch.rand(3, 6, 3, generator=seeded(2))

    def oracle(sample, timesteps, condition):
        a, clean = cosine_signal(timesteps), chunk.atanh()
        noise = (sample - a.sqrt() * clean) / (1 - a).sqrt()
        velocity = a.sqrt() * noise - (1 - a).sqrt() * clean
        return {"epsilon": noise, "sample": clean, "v_prediction": velocity}[prediction_type]

    monkeypatch.setattr(policy.unet, "forward", oracle)
    latents = policy(**make_observation(policy.config)).actions
    torch.testing.assert_close(latents, chunk, atol=1e-4, rtol=1e-4)
