# SPDX-License-Identifier: Apache-2.0
"""Our metrics as modules of the `evaluate` library: `success_rate` and `latent_cca`.

Each folder is a Space of the Hub as it stands: the script, the arithmetic beside it (`evaluate`
fetches what a script imports with `from .x`), card, widget. They import nothing else of ours, so
whoever has `evaluate` can use them; our own code imports the arithmetic from here.
"""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evaluate import EvaluationModule

_FOLDER = Path(__file__).parent


def load(name: str) -> "EvaluationModule":
    """The metric `"success_rate"` or `"latent_cca"`; needs no network.

    Raises:
        ValueError: If there is no such metric.
    """
    folder = _metric_folder(name)
    # `python recipes/evaluate.py` puts `recipes/` first on the path, where a file has the name of
    # the library.
    path = sys.path.copy()
    sys.path[:] = [entry for entry in path if not Path(entry, "evaluate.py").is_file()]
    try:
        evaluate = importlib.import_module("evaluate")
    finally:
        sys.path[:] = path
    return evaluate.load(str(folder), keep_in_memory=True)


def push_metric(name: str, namespace: str) -> str:
    """Upload a metric as a public Space, for `evaluate.load("<namespace>/<name>")`.

    The Space must have the metric's name: `evaluate` looks for a script of the name of the Space.

    Args:
        name: `"success_rate"` or `"latent_cca"`.
        namespace: Your user name, or an organisation.

    Returns:
        Address of the commit.
    """
    from huggingface_hub import HfApi

    folder, repository, api = _metric_folder(name), f"{namespace}/{name}", HfApi()
    api.create_repo(repository, repo_type="space", space_sdk="gradio", exist_ok=True)
    commit = api.upload_folder(
        repo_id=repository,
        repo_type="space",
        folder_path=str(folder),
        ignore_patterns=["__pycache__/**"],
        commit_message=f"Upload {name} of lawm_hf",
    )
    return str(commit)


def _metric_folder(name: str) -> Path:
    known = sorted(path.stem for path in _FOLDER.glob("*/*.py") if path.stem == path.parent.name)
    if name not in known:
        raise ValueError(f"`name` must be one of {', '.join(known)}, got {name!r}.")
    return _FOLDER / name
