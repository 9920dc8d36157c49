# SPDX-License-Identifier: Apache-2.0
"""The small checkpoint that comes with the package: it loads offline and does what it should."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import lawm_hf
from lawm_hf import LAWMForPretraining, LAWMPolicy, LAWMProcessor

FOLDER = Path(lawm_hf.TABLETOP).parent
PAIR, POLICY = Path(lawm_hf.TABLETOP), Path(lawm_hf.TABLETOP_POLICY)


def test_it_is_small_and_holds_no_code_and_no_folder_of_another_machine():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 5_000_000
    assert {path.suffix for path in files} <= {
        *(".json", ".jsonl", ".yaml", ".md", ".safetensors", ".png")
    }
    for path in files:
        if path.suffix not in (".safetensors", ".png"):
            assert not re.search(r"/(tmp|home|work|root)/", path.read_text()), path
            assert "auto_map" not in path.read_text(), path


def test_weights_are_half_on_disk_and_single_in_memory_and_nothing_but_rounding_lies_between():
    pair = LAWMForPretraining.from_pretrained(lawm_hf.TABLETOP)
    policy = LAWMPolicy.from_pretrained(lawm_hf.TABLETOP_POLICY)
    for model, folder in (
        (pair.policy, PAIR / "policy"),
        (pair.world_model, PAIR / "world_model"),
        (policy, POLICY),
    ):
        assert model.dtype == torch.float32
        saved = load_file(folder / "model.safetensors")
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                assert saved[name].dtype == torch.float16
                torch.testing.assert_close(tensor, saved[name].float(), rtol=0, atol=0)


def test_its_latents_are_alive_by_its_own_report():
    health = json.loads((PAIR / "health.json").read_text())
    assert health["alarms"] == []
    assert health["probes"]["trained"]["target_r2"] > 0.9


def test_the_pair_imagines_another_future_under_another_instruction():
    pair = LAWMForPretraining.from_pretrained(lawm_hf.TABLETOP)
    processor = LAWMProcessor.from_pretrained(lawm_hf.TABLETOP, subfolder="processor")
    size = pair.policy.config.image_size
    images = torch.full((2, 1, 3, size, size), 120, dtype=torch.uint8)
    images[:, :, 0, 20:26, 20:26] = 230
    tasks = ["go to the red cube", "go to the blue cube"]
    batch = processor(images=images, task=tasks, frames=images)
    frames = batch.pop("frames")[:, 0]
    with torch.no_grad():
        latents = pair.policy(**batch).actions
        drawn = pair.world_model.predict_frames(frames, latents)
    assert drawn.shape[1] == pair.policy.config.chunk_size
    assert (drawn[0] - drawn[1]).abs().max() > 0.1


def test_a_packed_run_is_the_run_with_halved_weights_and_without_its_folders(tmp_path):
    pytest.importorskip("mujoco")
    from lawm_hf.recipes.small import pack

    run, packed = tmp_path / "pretrain", tmp_path / "packed"
    pair = LAWMForPretraining.from_pretrained(lawm_hf.TABLETOP)
    with torch.no_grad():
        pair.policy.places.add_(1e-5)  # what a half does not hold
    pair.save_pretrained(run)
    LAWMProcessor.from_pretrained(PAIR, subfolder="processor").save_pretrained(run / "processor")
    (run / "args.yaml").write_text(f"output_dir: {run}\npretrained: {run}\n")
    (run / "README.md").write_text('import torch\nX.from_pretrained("pretrain")\n')
    (run / "step_000002").mkdir()
    pack(run, packed)
    assert not (packed / "step_000002").exists()
    assert not list(packed.rglob("*.py"))
    assert str(tmp_path) not in (packed / "args.yaml").read_text()
    assert "from_pretrained(lawm_hf.TABLETOP)" in (packed / "README.md").read_text()
    loaded = LAWMForPretraining.from_pretrained(packed).state_dict()
    for name, tensor in pair.state_dict().items():
        torch.testing.assert_close(loaded[name], tensor, rtol=5e-4, atol=1e-4)
    halves = load_file(packed / "policy" / "model.safetensors").values()
    assert {tensor.dtype for tensor in halves if tensor.is_floating_point()} == {torch.float16}


def test_the_policy_solves_most_scenes():
    pytest.importorskip("mujoco")
    from lawm_hf.envs.tabletop import TabletopEnv
    from lawm_hf.evaluation.results import Trial
    from lawm_hf.evaluation.rollout import rollout

    policy = LAWMPolicy.from_pretrained(lawm_hf.TABLETOP_POLICY)
    processor = LAWMProcessor.from_pretrained(lawm_hf.TABLETOP_POLICY)
    trials = [Trial(seed) for seed in range(8)]
    played = rollout(policy, processor, TabletopEnv, trials, ("front", "wrist"), lockstep=8)
    assert sum(result.is_success for result in played) >= 5
