# SPDX-License-Identifier: Apache-2.0
"""What is installed: the recipes with their configurations, and the versions that were tested."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


def test_the_versions_that_uv_takes_are_those_of_requirements_txt():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    pins = re.findall(r"^([\w.-]+==[^ ;\\]+)", (REPOSITORY / "requirements.txt").read_text(), re.M)
    constraints = project["tool"]["uv"]["constraint-dependencies"]
    assert not set(constraints) - set(pins)
    wanted = {*project["project"]["dependencies"], *project["dependency-groups"]["dev"]}
    names = {re.match(r"[\w-]+", line)[0] for line in wanted} - {"lawm_hf"}
    assert names <= {line.split("==")[0] for line in constraints}


@pytest.mark.slow
@pytest.mark.parametrize("how", [[], ["--wheel"]])  # by way of the source archive, and without
def test_the_wheel_brings_recipes_and_configurations_and_runs_in_an_empty_folder(tmp_path, how):
    build = [sys.executable, "-m", "uv", "build", "-q", *how, "-o", str(tmp_path), str(REPOSITORY)]
    if subprocess.run([*build[:3], "--version"], capture_output=True, check=False).returncode:
        build[:3] = ["uv"]
    subprocess.run(build, check=True)
    site = tmp_path / "site"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    held = {str(path.relative_to(site / "lawm_hf")) for path in (site / "lawm_hf").rglob("*.*")}
    for path in (REPOSITORY / "recipes").rglob("*.[py]*"):
        if "__pycache__" not in path.parts:
            assert str(path.relative_to(REPOSITORY)) in held
    assert "hub/model_card_template.md" in held
    for path in (REPOSITORY / "lawm_hf/assets").rglob("*.*"):
        assert str(path.relative_to(REPOSITORY / "lawm_hf")) in held
    # `-P`: nothing of the checkout; a configuration by the name that it has there.
    code = f"import sys; sys.path.insert(0, {str(site)!r}); from lawm_hf import cli; cli.main()"
    config = "recipes/configs/pretrain_bridge.yaml"
    command = [
        sys.executable,
        "-P",
        "-c",
        code,
        "pretrain",
        config,
        "--sources",
        "lerobot:u/x@COMMIT",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "40 hexadecimal digits" in done.stderr
