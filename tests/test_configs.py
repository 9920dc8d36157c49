# SPDX-License-Identifier: Apache-2.0
"""Every configuration is read by its recipe, and its sources are well formed."""

import re
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_recipes import recipe

from lawm_hf import BakuConfig
from lawm_hf.arguments import parse_args, parse_json_options
from lawm_hf.commands.convert import ConvertArgs
from lawm_hf.data.spec import parse_spec
from lawm_hf.models.configuration_lawm import StrictConfig, subclasses
from lawm_hf.models.text_lawm import TaskEncoder

DOCS = Path(__file__).parent.parent / "docs"
CONFIGS = Path(__file__).parent.parent / "recipes" / "configs"


def arguments_class(path: Path):
    name = path.stem.split("_")[0]
    return getattr(recipe(name), f"{name.capitalize()}Args")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_a_configuration_is_read_by_its_recipe(path):
    args = parse_args(arguments_class(path), [str(path)])
    if hasattr(args, "policy_config"):
        parse_json_options(args.policy_config, "policy_config")
    sources = getattr(args, "sources", None) or [getattr(args, "source", "")]
    for source in filter(None, sources):
        parse_spec(source)


@pytest.mark.parametrize("path", sorted(DOCS.glob("*/plan.yaml")), ids=lambda p: p.parent.name)
def test_the_plan_beside_a_published_report_still_runs(path):
    assert parse_args(recipe("experiment").ExperimentArgs, [str(path)]).tasks == 2


@pytest.mark.parametrize(("before", "tasks"), [("0", 1), ("1", 1), ("3", 3)])
def test_a_conversion_takes_the_former_name_of_its_tasks(before, tasks):
    line = ["folder", "videos", "--out", "shards", "--num_workers", before]
    assert parse_args(ConvertArgs, line).tasks == tasks


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.stem)
def test_what_comes_from_the_hub_is_named_with_its_commit(path):
    text = path.read_text()
    for name in re.findall(r"lerobot:[\w.-]+/[\w.-]+|openai/[\w-]+", text):
        if name != "lerobot:data/five_tasks":  # a folder
            assert re.search(rf"{re.escape(name)}@[0-9a-f]{{40}}\b", text), name
    assert not re.search(r"\b(COMMIT|CAMERA)\b", text)


def test_a_text_encoder_may_be_named_with_a_revision(monkeypatch, tmp_path):
    asked = []

    def from_pretrained(name, revision="main"):
        asked.append((name, revision))
        return SimpleNamespace(model_type="clip", get_text_config=lambda: config)

    config = SimpleNamespace(projection_dim=512)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", from_pretrained)
    (tmp_path / "a@b").mkdir()
    for name in ("user/clip@0123", "user/clip", str(tmp_path / "a@b")):
        assert TaskEncoder(name).size == 512
    assert asked == [("user/clip", "0123"), ("user/clip", "main"), (str(tmp_path / "a@b"), "main")]


def test_a_number_may_be_written_without_a_point():
    """`{"dropout": 0}` in JSON and `--policy.dropout=0` in LeRobot are whole numbers."""
    ours = [c for c in subclasses(StrictConfig) if c.__module__.startswith("lawm_hf.")]
    strict = {f"{c.__name__}.{f.name}" for c in ours for f in fields(c) if f.type is float}
    assert len(ours) > 5
    assert not strict, "declare them `float | int`"
    assert BakuConfig.from_preset("tabletop", dropout=0).dropout == 0
