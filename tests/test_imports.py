# SPDX-License-Identifier: Apache-2.0
"""The layers: who may import whom, and what `import lawm_hf` may cost."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lawm_hf

ROOT = Path(lawm_hf.__file__).parent
# Nothing but the standard library: not even torch.
ALLOWED_BY_IMPORT = {"lawm_hf"}
HEAVY = {
    *("torch", "transformers", "diffusers", "datasets", "accelerate", "lerobot", "gymnasium"),
    *("mujoco", "wandb", "matplotlib", "sklearn", "av", "pyarrow", "numpy"),
}
# Package -> the packages of ours that it may import.
LAYERS = {
    "models": set(),
    "data": {"envs"},  # the recorder, when a `tabletop:` source is opened
    "envs": {"writing"},
    "writing": set(),
    "training": {"models", "arguments", "hub", "writing"},
    "evaluation": {"models", "data", "envs", "metrics", "writing"},
    "hub": {"models", "writing"},
    "analysis": {"models", "data", "metrics"},
    "experiments": {"models", "analysis", "evaluation", "metrics", "writing"},
    "metrics": set(),
    "lerobot": {"models", "envs", "data", "evaluation", "training", "hub"},
}


def imported(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, anywhere in it."""
    names: set[str] = set()
    package = ["lawm_hf", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            names.add(".".join([*base, *([node.module] if node.module else [])]))
    return names


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_the_layers_below_it(layer):
    for path in (ROOT / layer).rglob("*.py"):
        ours = {n.split(".")[1] for n in imported(path) if n.startswith("lawm_hf.")}
        assert ours <= LAYERS[layer] | {layer}, path


def test_model_files_import_only_their_siblings_so_that_remote_code_works():
    for path in (ROOT / "models").glob("*_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, path
                assert "." not in (node.module or ""), path


def test_only_the_lerobot_package_imports_lerobot_and_nobody_imports_recipes():
    for path in ROOT.rglob("*.py"):
        names = {name.split(".")[0] for name in imported(path)}
        assert "recipes" not in names, path
        if (ROOT / "lerobot") not in path.parents:
            assert "lerobot" not in names, path


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, lawm_hf; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )
    assert not loaded & HEAVY
    third_party = loaded - set(sys.stdlib_module_names) - ALLOWED_BY_IMPORT
    assert not {name for name in third_party if not name.startswith(("_", "site"))}
