# SPDX-License-Identifier: Apache-2.0
"""The notebooks, each run in a short form from its first cell to its last."""

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import constants

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(notebook: Path, kind: str = "code") -> list[dict]:
    return [c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == kind]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_its_first_cell_to_its_last(notebook, tmp_path, monkeypatch):
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAWM_NOTEBOOK_QUICK", "1")
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict = {}
    for number, cell in enumerate(cells(notebook)):
        # IPython's commands: only the installation, which does nothing where the package is.
        code = re.sub(r"^( *)%.*", r"\1raise AssertionError", "".join(cell["source"]), flags=re.M)
        exec(compile(code, f"{notebook.name}, cell of code {number}", "exec"), names)
    plots = pytest.importorskip("matplotlib.pyplot")
    assert plots.get_fignums()  # each shows something
    plots.close("all")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_installs_the_package_first_and_keeps_no_outputs(notebook):
    first, *others = cells(notebook)
    assert "%pip install" in "".join(first["source"])
    assert not any(cell["outputs"] or cell["execution_count"] for cell in (first, *others))
    assert constants.ENDPOINT.removeprefix("https://") not in "".join(first["source"])


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_told_of_and_its_links_lead_somewhere(notebook):
    assert f"../notebooks/{notebook.name}" in (ROOT / "docs/notebooks.md").read_text()
    text = "".join("".join(cell["source"]) for cell in cells(notebook, "markdown"))
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (notebook.parent / link).exists(), link
