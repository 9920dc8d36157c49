# SPDX-License-Identifier: Apache-2.0
"""The push of a run to the Hub."""

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.dynamic_module_utils import get_relative_import_files

from .. import hub
from ..writing.atomic import read_json
from .card import LICENCE_FILE, data_licences
from .card_file import rename_card, run_files, write_card
from .licences import Licence, licence, shareable

# What a push uploads: models, processor, LeRobot's pipelines, card and records.
_PARTS = ("", "policy", "world_model", "processor")
_RESULT_FILES = (
    *("README.md", LICENCE_FILE, "environment.json", "health.json"),
    *("config.json", "processor_config.json", "policy_p*processor.json"),
    *("*.safetensors", "*.safetensors.index.json"),
)


def push_run(
    folder: str | Path,
    repository: str,
    *,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str = "",
    allow_public: bool = False,
) -> str:
    """Name the repository in the card and upload models, processor and reports, in one commit.

    Only what is known to be a result: no state to resume from, no logs, no pictures of data whose
    licence forbids it, and `args.yaml` without the folders of this machine. The repository is
    created private if it does not exist: checkpoints may carry the licence of the data behind them.

    Args:
        folder: Output of a recipe.
        repository: `user/name`.
        revision: Branch to write to, made if it does not exist; the main one by default.
        create_pr: Open a pull request instead.
        tag: Name to give to the commit.
        allow_public: Upload to a public repository even what no licence of the data allows there.

    Returns:
        Address of the commit.

    Raises:
        ValueError: If the repository's name is none, or it is public and must not be.
    """
    check_repository(repository)
    folder = Path(folder)
    args, record = run_files(folder)
    licences = data_licences(args, record)
    api = hub.HfApi()  # looked up where a caller may have put his own
    api.create_repo(repository, private=True, exist_ok=True)
    if not allow_public:
        check_private(api, repository, licences, "with `lawm-hf push --allow_public`")
    if not (folder / "README.md").exists():
        write_card(folder, repository)
    rename_card(folder / "README.md", repository)
    shared = yaml.safe_dump({k: _without_folders(v) for k, v in args.items()}, sort_keys=False)
    seen, shown = [*licences.values()], args.get("eval_source", "auto")
    if shown not in ("auto", "none"):  # Then its frames are on the pictures.
        seen.append(licence(shown))
    files = _results(folder, with_frames=all(found.allows_frames for found in seen))
    if revision and not revision.startswith("refs/"):
        api.create_branch(repository, branch=revision, exist_ok=True)
    commit = api.create_commit(
        repo_id=repository,
        operations=[
            CommitOperationAdd("args.yaml", shared.encode()),
            *(CommitOperationAdd(file.relative_to(folder).as_posix(), file) for file in files),
        ],
        commit_message="Upload a lawm_hf run",
        revision=revision,
        create_pr=create_pr,
    )
    if tag:
        api.create_tag(repository, tag=tag, revision=commit.oid)
    return str(commit)


def check_repository(repository: str) -> None:
    """Find a malformed name before any work is done.

    Raises:
        ValueError: If it is not `user/name`.
    """
    try:
        validate_repo_id(repository)
        problem = "" if "/" in repository else "the owner is missing"
    except HFValidationError as error:
        problem = str(error)
    if problem:
        raise ValueError(
            f"A Hub repository must be named `user/name`, got {repository!r}: {problem}. "
            "Give `push_to_hub` such a name, for instance me/lawm-reach."
        )


def check_private(api: Any, repository: str, licences: dict[str, Licence], remedy: str) -> None:
    """Data that forbid it are not behind weights in a public repository, unless somebody asks.

    Raises:
        ValueError: If the repository is public, and what to do.
    """
    forbidding = [spec for spec, found in licences.items() if not found.allows_public_weights]
    if forbidding and getattr(api.repo_info(repository), "private", None) is False:
        raise ValueError(
            f"Weights that derive from {forbidding[0]!r} must not become public unasked, and "
            f"{repository!r} is public. Nothing was uploaded. Push to another name, created "
            f"private, or {remedy} if you have the right."
        )


def _results(folder: Path, with_frames: bool) -> list[Path]:
    """The files of a run that are meant for others."""
    patterns = [*_RESULT_FILES, *(["strip*.png"] if with_frames else [])]
    files = {
        file for part in _PARTS for pattern in patterns for file in (folder / part).glob(pattern)
    }
    for file in [*files]:
        if file.name in ("config.json", "processor_config.json"):
            for name in read_json(file, dict).get("auto_map", {}).values():
                module = file.with_name(f"{name.split('.')[0]}.py")
                if module.is_file():
                    files |= {module, *map(Path, get_relative_import_files(module))}
    return sorted(files)


def _without_folders(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return shareable(value) if isinstance(value, str) else value
