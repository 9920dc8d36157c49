# SPDX-License-Identifier: Apache-2.0
"""docs/extending.md, by doing it: its five files outside this package, pretrained to success."""

import importlib
import json
import re
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from contract import PolicyContract
from world_model_contract import WorldModelContract

pytest.importorskip("gymnasium")
import gymnasium

from lawm_hf.arguments import parse_args
from lawm_hf.models import LAWMForPretraining, LAWMPolicy, LAWMProcessor
from lawm_hf.plugins import import_packages

PAGE = Path(__file__).parent.parent / "docs/extending.md"
FILES = dict(re.findall(r"```python\n# (dots/\w+\.py)\n(.*?)```", PAGE.read_text(), re.DOTALL))


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The package of the page, importable, with 24 clips of its environment."""
    root = tmp_path_factory.mktemp("out_of_tree")
    (root / "dots").mkdir()
    for name, content in FILES.items():
        (root / name).write_text(content)
    sys.path.insert(0, str(root))
    import_packages(["dots"])
    (root / "clips").mkdir()
    env = gymnasium.make("dots/Dots-v0").unwrapped
    for clip in range(24):
        observation, _ = env.reset(seed=1000 + clip)
        action = np.array([(-1, 1)[env.side], 0], np.float32)
        frames, states = [], []
        for _ in range(8):
            frames.append(observation["pixels"]["top"])
            states.append(observation["agent_pos"])
            observation = env.step(action)[0]
        stored = {"frames": np.stack(frames), "state": np.stack(states)}
        stored["actions"] = np.repeat(action[None], len(frames), 0)
        np.savez(root / f"clips/{clip:03d}.npz", task=env.task_description, **stored)
    yield root
    sys.path.remove(str(root))


def run(recipe: str, *flags: str) -> None:
    module = importlib.import_module(f"lawm_hf.recipes.{recipe}")
    arguments = getattr(module, f"{recipe.capitalize()}Args")
    module.main(parse_args(arguments, ["--import", "dots", *flags]))


@pytest.fixture(scope="module")
def pretrained(package):
    flags = {
        "sources": f"dots:{package}/clips",
        "policy_type": "dots_policy",
        "world_model_type": "dots_world",
        "objective": "dots_colour",
        "objective_config": '{"colour_weight": 0.1}',
        "policy_config": '{"action_size": 2}',
        **dict.fromkeys(("steps", "batch_size"), "8"),
        **dict.fromkeys(("chunk_size", "warmup_steps"), "4"),
        "output_dir": str(package / "pretrained"),
    }
    run("pretrain", *(part for key, value in flags.items() for part in (f"--{key}", value)))
    return package / "pretrained"


@pytest.fixture(scope="module")
def finetuned(package, pretrained):
    flags = ["--source", f"dots:{package}/clips", "--steps", "60", "--batch_size", "32"]
    flags += ["--warmup_steps", "5", "--learning_rate", "3e-3", "--augment", "false"]
    folder = package / "finetuned"
    run("finetune", "--pretrained", str(pretrained), *flags, "--output_dir", str(folder))
    return folder


def test_every_file_of_the_page_is_short():
    assert len(FILES) == 6
    assert all(len(content.splitlines()) < 80 for content in FILES.values())


def test_pretraining_reports_on_a_pair_from_elsewhere_and_its_card_names_it(pretrained):
    health = json.loads((pretrained / "health.json").read_text())
    assert np.isfinite(health["loss"])
    assert (pretrained / "strip.png").stat().st_size > 1000
    card = (pretrained / "README.md").read_text()
    assert "DotsPolicy" in card
    assert "DotsWorldModel" in card
    assert "Dreamer" not in card
    model = LAWMForPretraining.from_pretrained(pretrained)
    assert type(model).__name__ == "ColourForPretraining"
    assert model.config.colour_weight == 0.1
    optimizer = torch.load(pretrained / "step_000008/optimizer.bin", weights_only=True)
    trained = sum(len(group["params"]) for group in optimizer["param_groups"])
    assert trained == len(list(model.parameters())), "the objective's own layer, too"
    assert json.loads((pretrained / "policy/config.json").read_text())["defined_in"] == "dots"


def test_a_finetuned_policy_from_elsewhere_solves_an_environment_from_elsewhere(package, finetuned):
    assert type(LAWMPolicy.from_pretrained(finetuned)).__name__ == "DotsPolicy"
    assert LAWMProcessor.from_pretrained(finetuned).action_stats
    out = package / "evaluated"
    flags = ["--env", "dots/Dots-v0", "--episodes", "8", "--output_dir", str(out)]
    run("evaluate", "--policy", str(finetuned), *flags)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["episodes"] == 8
    assert summary["success_rate"] > 0.7


def test_lerobot_loads_a_policy_from_elsewhere(finetuned):
    pytest.importorskip("lerobot")
    from lawm_hf.lerobot.modeling_lawm import LawmPolicy

    policy = LawmPolicy.from_pretrained(finetuned)
    ours = LAWMPolicy.from_pretrained(finetuned)
    assert type(policy.lawm) is type(ours)


@pytest.mark.slow
def test_lerobot_evaluates_a_policy_from_elsewhere(package, finetuned):
    pytest.importorskip("lerobot")
    import os
    import subprocess

    command = [
        *(str(Path(sys.executable).with_name("lerobot-eval")), f"--policy.path={finetuned}"),
        *("--lawm.discover_packages_path=lawm_hf.lerobot", "--dots.discover_packages_path=dots"),
        *("--env.type=lawm_gym", "--env.gym_id=dots/Dots-v0", "--eval.n_episodes=4"),
        *("--eval.batch_size=2", "--eval.use_async_envs=false", "--policy.device=cpu"),
        f"--output_dir={package}/lerobot",
    ]
    path = os.pathsep.join([str(package), *sys.path])
    result = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "pc_success" in result.stdout + result.stderr


@pytest.fixture(scope="class")
def _dots(package, request):
    dots = sys.modules["dots"]
    request.cls.policy_class = dots.policy.DotsPolicy
    request.cls.world_model_class = dots.world_model.DotsWorldModel


@pytest.mark.usefixtures("_dots")
class TestDotsPolicy(PolicyContract):
    options: ClassVar = {
        "chunk_size": 3,
        "action_size": 2,
        "state_size": 2,
        "task_embed_size": 16,
        "image_size": 32,
        "num_views": 2,
    }


@pytest.mark.usefixtures("_dots")
class TestDotsWorldModel(WorldModelContract):
    options: ClassVar = {"image_size": 32, "action_size": 2}
