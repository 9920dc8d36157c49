# SPDX-License-Identifier: Apache-2.0
"""The layers: who may import whom, and what `import lawm_hf` may cost."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lawm_hf

ROOT = Path(lawm_hf.__file__).parent
REPOSITORY = Path(__file__).parent.parent
# Module -> its package, where the names differ; or the package of ours that brings it.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "yaml": "pyyaml",
    "sklearn": "scikit_learn",
    "OpenGL": "pyopengl",
    "libero": "lerobot",
    "grpc": "grpcio",
}
# Nothing but the standard library: not even torch.
ALLOWED_BY_IMPORT = {"lawm_hf"}
HEAVY = {
    *("torch", "transformers", "diffusers", "datasets", "accelerate", "lerobot", "gymnasium"),
    *("mujoco", "wandb", "matplotlib", "sklearn", "av", "pyarrow", "numpy"),
}
# Package -> the packages of ours that it may import.
LAYERS = {
    "models": {"plugins"},
    "data": {"envs", "plugins", "writing"},  # the recorder, when a `tabletop:` source is opened
    "envs": {"writing"},
    "writing": set(),
    "plugins": {"writing"},
    "training": {"models", "arguments", "hub", "writing"},
    "evaluation": {"models", "data", "envs", "metrics", "writing"},
    "hub": {"models", "writing"},
    "analysis": {"models", "data", "metrics", "writing"},
    "experiments": {"models", "training", "analysis", "evaluation", "metrics", "writing"},
    "metrics": set(),
    "arguments": {"plugins", "writing"},
    "cli": {"arguments", "commands", "recipes"},
    "commands": {
        *("arguments", "analysis", "data", "hub", "envs", "evaluation", "play", "plugins"),
        "writing",
    },
    "play": {"models", "analysis", "data", "envs", "evaluation", "hub", "plugins", "writing"},
    "moved": set(),
    "__init__": {"moved", "models"},
    "lerobot": {"models", "envs", "data", "evaluation", "training", "hub", "writing"},
}

FILES = [path for path in ROOT.rglob("*.py") if "recipes" not in path.relative_to(ROOT).parts]


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(["lawm_hf", *(part for part in parts if part != "__init__")])


MODULES = {module(path): path for path in FILES}


def imported(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, anywhere in it, by a string too."""
    names: set[str] = set()
    package = ["lawm_hf", *path.relative_to(ROOT).parts[:-1]] if ROOT in path.parents else []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            whole = {f"{base}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else base for name in whole}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            name = ast.unparse(node.args[0]).replace("{__package__}", package[0] if package else "")
            if found := re.match(r"^f?'(\.?[\w.]+)", name):
                names.add(found[1] if found[1][0] != "." else f"{'.'.join(package)}{found[1]}")
    return names


def is_ours(name: str) -> bool:
    return name.split(".")[0] == "lawm_hf"


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Some names that import each other in a ring."""
    done: set[str] = set()

    def follow(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return trail[trail.index(name) :]
        if name in done:
            return []
        found = next(filter(None, (follow(n, [*trail, name]) for n in graph.get(name, ()))), [])
        done.add(name)
        return found

    return next(filter(None, (follow(name, []) for name in graph)), [])


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_the_layers_below_it(layer):
    paths = (ROOT / layer).rglob("*.py") if (ROOT / layer).is_dir() else [ROOT / f"{layer}.py"]
    for path in paths:
        ours = {n.split(".")[1] for n in imported(path) if n.startswith("lawm_hf.")}
        assert ours <= LAYERS[layer] | {layer}, path


def test_every_module_has_its_layer_and_the_root_holds_four_at_most():
    assert {m.split(".")[1] for m in MODULES if m != "lawm_hf"} == set(LAYERS) - {"__init__"}
    assert len(list(ROOT.glob("*.py"))) <= 4


REMOTE_CODE = [p for p in FILES if ".register_for_auto_class(" in p.read_text()]


@pytest.mark.parametrize("path", REMOTE_CODE, ids=[path.stem for path in REMOTE_CODE])
def test_remote_code_imports_all_it_needs_by_itself_or_its_configuration(path):
    """Transformers copies the files that one imports, and not those that these import."""

    def siblings(name: str) -> set[str]:
        return {n for n in imported(MODULES[name]) if n.startswith("lawm_hf.models.")}

    there = siblings(module(path))
    there = there.union(*(siblings(name) for name in there if ".configuration_" in name))
    assert set().union(*map(siblings, there)) <= there


def test_neither_packages_nor_modules_import_each_other_in_a_circle():
    graph = {
        # A package and its own modules count as one: `hub.push` reads a name of `hub`.
        name: {n for n in imported(path) if n in MODULES and not f"{name}.".startswith(f"{n}.")}
        for name, path in MODULES.items()
    }
    assert not circle(graph)
    assert not circle(LAYERS)
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


COMMANDS = [name for name, path in MODULES.items() if "\nif __name__ ==" in path.read_text()]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_package_imports_none_of_its_commands_which_python_would_warn_of(command):
    def at_once(name: str) -> set[str]:
        tree = ast.parse(MODULES[name].read_text())
        nodes = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level == 1]
        names = {f"{package}.{n.module or alias.name}" for n in nodes for alias in n.names}
        return names & MODULES.keys()

    package = command.rpartition(".")[0]
    reached, new = set(), {package}
    while new:
        reached |= new
        new = set().union(*map(at_once, new)) - reached
    assert command not in reached


def test_an_import_by_a_string_is_seen(tmp_path):
    path = tmp_path / "x.py"
    path.write_text("import importlib\nimportlib.import_module('lawm_hf.data.spec')\n")
    assert "lawm_hf.data.spec" in imported(path)
    path.write_text("from importlib import import_module\nimport_module(f'lawm_hf.{1}')\n")
    assert "lawm_hf." in imported(path)


@pytest.mark.skipif(ROOT.parent != REPOSITORY, reason="reads the sources of a checkout")
def test_what_is_imported_is_declared():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    extras = [
        line for lines in project["project"]["optional-dependencies"].values() for line in lines
    ]
    declared = {
        re.match(r"[\w-]+", line)[0].lower().replace("-", "_")
        for line in [*project["project"]["dependencies"], *extras]
    }
    dev = {re.match(r"[\w-]+", x)[0].lower() for x in project["dependency-groups"]["dev"]}
    own = {path.stem for path in (REPOSITORY / "tests").glob("*.py")}
    for folder, known in (("lawm_hf", set()), ("recipes", set()), ("tests", dev | own)):
        for path in (REPOSITORY / folder).rglob("*.py"):
            for name in {name.split(".")[0] for name in imported(path) if not is_ours(name)}:
                if name in sys.stdlib_module_names:
                    continue
                name = DISTRIBUTIONS.get(name, name)
                assert name.lower() in declared | known, f"{path} imports {name}"


def test_model_files_import_only_their_siblings_so_that_remote_code_works():
    for path in (ROOT / "models").glob("*_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, path
                assert "." not in (node.module or ""), path


def test_only_the_lerobot_package_imports_lerobot_and_nobody_imports_recipes():
    for path in FILES:
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
