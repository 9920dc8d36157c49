# SPDX-License-Identifier: Apache-2.0
"""Policies as programs: captured, compiled, written as ONNX and run without torch."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from test_baku import PATCH, RESNET
from test_baku import TINY as TINY_BAKU
from test_diffusion import TINY as TINY_DIFFUSION

from lawm_hf.evaluation.rollout import ChunkAggregator
from lawm_hf.hub import onnx_export
from lawm_hf.models import (
    BakuConfig,
    BakuPolicy,
    DiffusionPolicy,
    DiffusionPolicyConfig,
    LAWMPolicy,
    LAWMProcessor,
)
from lawm_hf.models.inference_lawm import capture, example_observation

PAGE = Path(__file__).parent.parent / "docs/performance.md"


def baku(**options) -> BakuPolicy:
    return BakuPolicy(BakuConfig(**{**TINY_BAKU, **PATCH, **options})).eval()


def diffusion(**options) -> DiffusionPolicy:
    few = {"num_inference_steps": 2, **options}
    return DiffusionPolicy(DiffusionPolicyConfig(**{**TINY_DIFFUSION, **few})).eval()


def resnet() -> BakuPolicy:
    return baku(**RESNET)


SLOW = [pytest.param(make, marks=pytest.mark.slow) for make in (resnet, diffusion)]


@pytest.mark.parametrize("make", [baku, *SLOW])
def test_a_captured_policy_says_the_same_for_any_batch(make):
    policy = make()
    program = capture(policy).module()
    for batch_size in (1, 3):
        observation = example_observation(policy, batch_size)
        expected = policy.predict_action_chunk(**observation)
        torch.testing.assert_close(program(observation), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_policy_that_looks_at_its_numbers_is_refused():
    class Peeking(BakuPolicy):
        def predict_action_chunk(self, **observation):
            chunk = super().predict_action_chunk(**observation)
            return chunk if chunk.max() > 0 else -chunk

    with pytest.raises(ValueError, match=r"Peeking.*must be tensor operations alone"):
        capture(Peeking(BakuConfig(**TINY_BAKU, **PATCH)).eval())


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_the_sampler_is_the_ddim_of_diffusers(prediction_type):
    policy = diffusion(prediction_type=prediction_type, num_inference_steps=7)
    observation = example_observation(policy, 3)
    sample = observation["noise"]
    got = policy.predict_action_chunk(**observation)
    del observation["noise"]
    with torch.no_grad():
        condition = policy.encode(**observation)
        scheduler = DDIMScheduler(
            num_train_timesteps=policy.config.num_train_timesteps,
            beta_schedule="squaredcos_cap_v2",
            prediction_type=prediction_type,
            clip_sample=True,
        )
        scheduler.set_timesteps(7)
        for step in scheduler.timesteps.tolist():
            prediction = policy._predict(sample, step, condition)
            sample = scheduler.step(prediction, step, sample).prev_sample
    torch.testing.assert_close(got, sample.clamp(-1, 1), rtol=0, atol=1e-4)


def test_noise_may_be_drawn_before():
    policy = diffusion()
    observation = example_observation(policy)
    observation |= policy.draw_noise(2, torch.Generator().manual_seed(5))
    before = policy.predict_action_chunk(**observation)
    del observation["noise"]
    within = policy.predict_action_chunk(torch.Generator().manual_seed(5), **observation)
    torch.testing.assert_close(before, within, rtol=0, atol=0)
    with pytest.raises(ValueError, match="sampler must be"):
        diffusion(sampler="ddpm").draw_noise(2)


@pytest.mark.slow
@pytest.mark.parametrize("make", [resnet, diffusion])
def test_a_compiled_policy_is_a_copy_that_says_the_same(make, tmp_path):
    policy = make()
    compiled = policy.compile_for_inference()
    for batch_size in (1, 3):
        observation = example_observation(policy, batch_size)
        expected = policy.predict_action_chunk(**observation)
        got = compiled.predict_action_chunk(**observation)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    if "noise" in observation:
        del observation["noise"]
        first, second = (
            p.predict_action_chunk(torch.Generator().manual_seed(3), **observation)
            for p in (policy, compiled)
        )
        torch.testing.assert_close(first, second, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="no masks"):
        compiled.predict_action_chunk(**observation, view_mask=torch.ones(3, 2, dtype=torch.bool))
    assert policy.predict_action_chunk.__func__ is type(policy).predict_action_chunk
    assert all(p.requires_grad for p in policy.parameters())
    compiled.save_pretrained(tmp_path)
    saved = LAWMPolicy.from_pretrained(tmp_path).state_dict()
    assert saved.keys() == policy.state_dict().keys()
    for name, weight in policy.state_dict().items():
        torch.testing.assert_close(saved[name], weight, rtol=0, atol=0)


# ------------------------------------------------------------------------------ ONNX


@pytest.fixture
def finetuned(tmp_path):
    """A folder with a policy, and a processor whose statistics are those of no one else."""
    policy = baku(task_embed_size=32)
    config = policy.config
    high = np.arange(1.0, config.state_size + 1)
    processor = LAWMProcessor(
        image_size=config.image_size,
        task_embed_size=32,
        state_stats={"min": list(-high), "max": list(3 * high)},
        action_stats={"min": [-2.0, 0.5, 0.0], "max": [4.0, 0.5, 90.0]},
    )
    processor.center_tasks(["go to the red cube", "go to the blue cube"])
    policy.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path


def test_onnx_runs_without_torch_as_the_page_shows(finetuned, tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    file = onnx_export.export_onnx(finetuned, tasks=["go to the red cube"])
    assert file == finetuned / "policy.onnx"
    policy = LAWMPolicy.from_pretrained(finetuned).eval()
    processor = LAWMProcessor.from_pretrained(finetuned)
    size = policy.config.image_size
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (policy.config.num_views, size, size, 3), dtype=np.uint8)
    state = rng.uniform(-1, 1, policy.config.state_size).astype(np.float32)
    np.savez(tmp_path / "seen.npz", images=images, state=state)
    batch = processor(
        images=torch.from_numpy(images).permute(0, 3, 1, 2)[None],
        task=["go to the red cube"],
        state=state[None],
    )
    expected = processor.unnormalize_actions(policy.predict_action_chunk(**batch))[0].numpy()
    (example,) = re.findall(r"```python\n(# Runs.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(example.splitlines()) <= 25
    code = "import sys; sys.modules['torch'] = None\n"
    code += example.replace("outputs/finetune/policy.onnx", str(file))
    code += f"\nseen = np.load({str(tmp_path / 'seen.npz')!r})"
    code += "\nchunk = act(seen['images'], seen['state'], 'go to the red cube')"
    code += "\nprint(json.dumps(chunk.tolist()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    scale = np.array([3, 1, 45])  # of the statistics above; the constant one is exact
    error = (np.array(json.loads(done.stdout.splitlines()[-1])) - expected) / scale
    assert np.abs(error).max() < 1e-4


@pytest.mark.parametrize("how", ["none", "uniform", "exponential"])
@pytest.mark.parametrize("every", [1, 3])
def test_without_torch_chunks_are_executed_as_everywhere(how, every):
    (example,) = re.findall(r"```python\n(# Executes.*?)```", PAGE.read_text(), re.DOTALL)
    drawn = np.random.default_rng(0).standard_normal((2, 9, 4, 3))  # episode, step, N, A
    options = {"aggregation": how, "n_action_steps": every}
    program = {"np": np, "json": json, "metadata": {"config": json.dumps(options)}}
    program["act"] = lambda images, state, task: drawn[state]
    exec(example, program)
    for episode in range(2):
        aggregator = ChunkAggregator(how, every)
        for step in range(9):
            if aggregator.needs_chunk:
                aggregator.add(drawn[episode, step][None])
            told = program["next_action"](step, None, (episode, step), "go")
            np.testing.assert_allclose(told, aggregator.next_action()[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["diffusion", "act"])
def test_the_steps_of_a_sampler_and_a_policy_of_lerobot_become_onnx_too(kind, tmp_path):
    pytest.importorskip("onnxscript")
    ort = pytest.importorskip("onnxruntime")
    if kind == "act":
        pytest.importorskip("lerobot")
        from lawm_hf.lerobot.act import LeRobotActConfig, LeRobotActPolicy

        config = LeRobotActConfig.from_preset("tabletop", task_embed_size=32)
        policy = LeRobotActPolicy(config).eval()
    else:
        policy = diffusion(task_embed_size=32)
    size = policy.config.action_size
    processor = LAWMProcessor(
        image_size=policy.config.image_size,
        task_embed_size=32,
        state_normalization="identity",
        action_stats={"min": [-1.0] * size, "max": [1.0] * size},
    )
    policy.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    session = ort.InferenceSession(onnx_export.export_onnx(tmp_path))  # compares, too
    names = {entry.name for entry in session.get_inputs()}
    assert names == {"pixel_values", "task_embeds", "state"} | set(policy.draw_noise(1))


def test_a_disagreement_is_not_written(finetuned, monkeypatch):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnx_export, "compare", lambda *_: float("nan"))
    with pytest.raises(ValueError, match="nothing was written"):
        onnx_export.export_onnx(finetuned)
    assert not list(finetuned.glob("*.onnx*"))


def test_the_export_says_what_it_lacks(finetuned, monkeypatch):
    monkeypatch.setattr(onnx_export.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"lawm_hf\[onnx\]"):
        onnx_export.export_onnx(finetuned)
