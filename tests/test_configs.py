# SPDX-License-Identifier: Apache-2.0
"""Every configuration is read by its recipe, and its sources are well formed."""

from pathlib import Path

import pytest
from test_recipes import recipe

from lawm_hf.arguments import parse_args, parse_json_options
from lawm_hf.data.spec import parse_spec

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
