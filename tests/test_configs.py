# SPDX-License-Identifier: Apache-2.0
"""Every YAML file of the recipes is read by its recipe, and every source in it is well formed."""

import json
from pathlib import Path

import pytest
from test_recipes import recipe

from lawm_hf.arguments import parse_args, parse_json_options
from lawm_hf.data.spec import parse_spec

CONFIGS = Path(__file__).parent.parent / "recipes" / "configs"


def arguments_class(path: Path):
    name = path.stem.split("_")[0] if path.parent == CONFIGS else "experiment"
    return getattr(recipe(name), f"{name.capitalize()}Args")


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.stem)
def test_a_configuration_is_read_by_its_recipe(path):
    args = parse_args(arguments_class(path), [str(path)])
    if hasattr(args, "policy_config"):
        parse_json_options(args.policy_config, "policy_config")
    sources = getattr(args, "sources", None) or [getattr(args, "source", "")]
    if hasattr(args, "finetune"):
        sources = [json.loads(args.finetune)["source"].format(demos=5)]
        flags = [f for f in json.loads(args.pretraining).values() if f]
        known = set(recipe("pretrain").PretrainArgs.__dataclass_fields__) | {"finetune"}
        assert all(set(f) <= known for f in flags)
    for source in filter(None, sources):
        parse_spec(source)
