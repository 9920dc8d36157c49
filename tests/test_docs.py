# SPDX-License-Identifier: Apache-2.0
"""The pages: their commands parse, their Python runs, their links lead somewhere."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from lawm_hf.arguments import parse_args
from lawm_hf.data.spec import parse_spec

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MARK = re.compile(r"\*(?:Takes|Needs|Run by) [^*]+\*$")

_spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs/hooks.py")
assert _spec is not None
assert _spec.loader is not None
hooks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hooks)


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """Blocks of code with the last line of text before each."""
    pattern = rf"([^\n]*)\n+ *```{language}\n(.*?)\n *```"
    return re.findall(pattern, page.read_text(), re.DOTALL)


def command_lines(page: Path) -> list[str]:
    """Lines of the page's shell blocks, continued ones joined."""
    text = "\n".join(block for _, block in blocks(page, "bash"))
    return [line.strip() for line in re.sub(r"\\\n\s*", " ", text).splitlines()]


def our_commands(page: Path) -> list[tuple[str, list[str]]]:
    """What a page tells to type of ours: the command and its arguments."""
    found = []
    for line in command_lines(page):
        for part in line.split("&&"):
            tokens = (
                shlex.split(part, comments=True) if re.search(r"lawm-hf|recipes/", part) else []
            )
            tokens = [re.sub(r"\$\w+", "0", token) for token in tokens]
            tokens = tokens[: tokens.index(">")] if ">" in tokens else tokens
            for i, token in enumerate(tokens):
                if recipe := re.fullmatch(r"recipes/(\w+)\.py", token):
                    found.append((recipe[1], tokens[i + 1 :]))
                elif token == "lawm-hf":
                    found.append(("", tokens[i + 1 :]))
    return found


@pytest.fixture(scope="module")
def commands() -> dict[str, type]:
    return hooks.commands()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_one_that_its_parser_takes(page, commands, monkeypatch):
    monkeypatch.chdir(ROOT)
    for name, argv in our_commands(page):
        if not name:
            known = [n for n in commands if argv[: len(n.split())] == n.split()]
            if argv == ["--help"]:
                continue
            assert known, f"no command `lawm-hf {' '.join(argv)}`"
            name = max(known, key=len)
            argv = argv[len(name.split()) :]
        if argv == ["--help"]:
            continue
        if "--import" in argv:  # of a package that only its own test has
            del argv[argv.index("--import") : argv.index("--import") + 2]
        args = parse_args(commands[name], argv)
        for source in getattr(args, "sources", None) or [getattr(args, "source", "")]:
            if ":" in source and not source.startswith("dots:"):
                parse_spec(source)


def test_the_readme_shows_all_the_commands_of_a_first_run():
    names = [name for name, _ in our_commands(README)]
    assert names[:3] == ["pretrain", "finetune", "evaluate"]
    first = command_lines(README)[:2]
    assert first == [
        "python3 -m pip install uv && python3 -m uv run accelerate launch recipes/pretrain.py",
        "python3 -m uv run pytest",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_block_of_commands_says_what_it_takes_or_which_test_runs_it(page):
    for before, block in blocks(page, "bash"):
        mark = MARK.search(before.strip())
        if page.name == "CONTRIBUTING.md" and not mark:
            continue
        assert mark, f"{page.name} must say what this takes, got {before!r} before:\n{block}"
        for test in re.findall(r"`(tests/[\w/]+\.py)`", mark[0]):
            assert (ROOT / test).is_file(), test


def slug(heading: str) -> str:
    text = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", text)).strip("-")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "mailto:")):
            assert target.startswith("https://"), target
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor and file.suffix == ".md" and "api" not in file.parts:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
            assert anchor in map(slug, headings), f"{page.name}: {target}"


def test_the_readme_is_short_and_so_is_its_figure():
    text = re.sub(r"^```.*?^```", "", README.read_text(), flags=re.DOTALL | re.M)
    assert len(text.split()) <= 900
    assert (ROOT / "docs/strip.gif").stat().st_size <= 500_000


def test_the_page_of_flags_has_every_flag_of_every_command(commands):
    page = hooks.flags_markdown()
    assert {"pretrain", "finetune", "evaluate", "analyze", "experiment", "push"} <= set(commands)
    for name, arguments in commands.items():
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        fields = arguments.__dataclass_fields__
        rows = re.findall(r"^\| `(?:--)?(\w+)` \|", section, re.M)
        assert rows == [field.rstrip("_") for field in fields]
    assert "| `--steps` | `400` |" in page


def test_the_page_of_installation_names_every_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs/install.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.M)) == set(project["optional-dependencies"])


def test_links_out_of_the_pages_lead_to_pages_with_the_source():
    text = "[a](../lawm_hf/cli.py) [b](robots.md) [c](../tests/contract.py#L3)"
    assert hooks.outside(text, "extending.md") == {
        "../lawm_hf/cli.py": "lawm_hf/cli.py",
        "../tests/contract.py": "tests/contract.py",
    }
    assert hooks.outside("[a](../../README.md) [b](../robots.md)", "api/models.md") == {
        "../../README.md": "README.md"
    }


# ------------------------------------------------------------------------------ Python


def run_python(code: str, folder: Path, monkeypatch) -> dict:
    monkeypatch.chdir(folder)
    space: dict = {}
    exec(compile(code, "page", "exec"), space)
    return space


def python(page: str, number: int = 0) -> str:
    return blocks(ROOT / page, "python")[number][1]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """`outputs/pretrain` and `outputs/finetune` of untrained models of the tabletop's sizes."""
    from lawm_hf import (
        BakuConfig,
        BakuPolicy,
        DreamerV3Config,
        DreamerV3WorldModel,
        LAWMForPretraining,
        LAWMProcessor,
    )

    root = tmp_path_factory.mktemp("pages")
    policy = BakuPolicy(BakuConfig.from_preset("tabletop", latent_norm="batch"))
    small = {"deter_size": 16, "hidden_size": 16, "depth": 4, "num_classes": 4}
    world_model = DreamerV3WorldModel(DreamerV3Config.from_preset("tiny", **small))
    LAWMForPretraining(policy, world_model).save_pretrained(root / "outputs/pretrain")
    sizes = {"image_size": 64, "task_embed_size": policy.config.task_embed_size}
    LAWMProcessor(**sizes).save_pretrained(root / "outputs/pretrain/processor")
    processor = LAWMProcessor(**sizes)
    state = {"min": [-1.0] * 8, "max": [1.0] * 8}
    processor.set_statistics({"state": state, "actions": {"min": [-1.0] * 7, "max": [1.0] * 7}})
    BakuPolicy(BakuConfig.from_preset("tabletop", state_size=8)).save_pretrained(
        root / "outputs/finetune"
    )
    processor.save_pretrained(root / "outputs/finetune")
    return root


def test_the_readmes_python_plays_an_episode(folders, monkeypatch):
    pytest.importorskip("mujoco")
    space = run_python(python("README.md"), folders, monkeypatch)
    assert space["chunk"].shape == (1, 10, 7)
    assert space["done"]


def test_the_method_in_code_reaches_every_parameter_of_both(tmp_path, monkeypatch):
    model = run_python(python("docs/method.md"), tmp_path, monkeypatch)["model"]
    parts = {name: p.grad for name, p in model.named_parameters()}
    idle = [name for name, gradient in parts.items() if gradient is None]
    assert all("propr" in name or "state" in name for name in idle), idle  # no state was given
    assert all(torch.isfinite(p).all() for p in parts.values() if p is not None)


def test_the_page_of_checkpoints_loads_what_it_says(folders, monkeypatch):
    space = run_python(python("docs/checkpoints.md"), folders, monkeypatch)
    assert type(space["policy"]).__name__ == "BakuPolicy"
    assert space["processor"].action_stats


def test_the_page_of_sources_opens_one(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mujoco")
    run_python(python("docs/your_video.md"), tmp_path, monkeypatch)
    assert "torch.Size([11, 3, " in capsys.readouterr().out


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    for name in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(name)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "--world_model_preset" in (tmp_path / "flags.html").read_text()
    assert "LAWMForPretraining" in (tmp_path / "api/models.html").read_text()
