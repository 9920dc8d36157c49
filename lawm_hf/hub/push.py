# SPDX-License-Identifier: Apache-2.0
"""The push of a run to the Hub."""

import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.dynamic_module_utils import get_relative_import_files

from .. import hub
from ..writing.atomic import read_json
from .answers import hub_errors
from .card import LICENCE_FILE, data_licences
from .card_file import rename_card, run_files, saved_backbone, write_card
from .licences import Licence, licence, shareable

# Of a collection, the name that the Hub has given it; anything else is a title.
_SLUG = re.compile(r"[\w.-]+/[\w.-]+-[0-9a-f]{24}")
# What a push uploads: models, processor, LeRobot's pipelines, card and records.
PARTS = ("", "policy", "world_model", "processor")
_RESULT_FILES = (
    *("README.md", LICENCE_FILE, "environment.json", "health.json", "execution.json"),
    *("config.json", "processor_config.json", "policy_p*processor.json"),
    *("task_embeddings.safetensors", "task_tokenizer.json", "model.safetensors.index.json"),
)
WEIGHTS = ("model*.safetensors", "objective.safetensors", "policy_p*processor*.safetensors")


def push_run(
    folder: str | Path,
    repository: str,
    *,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str = "",
    collection: str = "",
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
        collection: Title of a collection of the repository's owner, made private if there is none
            of that title, or the identifier of any; the repository is added to it.
        allow_public: Upload to a public repository even what no licence of the data allows there.

    Returns:
        Address of the commit.

    Raises:
        ValueError: If the repository's name is none, or it is public and must not be, or has a tag
            of that name.
        OSError: If the Hub refuses, or cannot be reached; or the run has not ended.
    """
    check_repository(repository)
    folder = Path(folder)
    args, record = run_files(folder)
    for needed, what in (("model*.safetensors", "weights"), ("processor_config.json", "processor")):
        if not any([*(folder / part).glob(needed)] for part in PARTS):
            raise FileNotFoundError(
                f"A push takes what a run leaves that has ended, got no {what} in {folder}. Let it "
                "end, with --resume true if it was interrupted. Nothing was uploaded."
            )
    licences = data_licences(args, record, saved_backbone(folder))
    api = hub.HfApi()  # looked up where a caller may have put his own
    with hub_errors(repository):
        api.create_repo(repository, private=True, exist_ok=True)
        if not allow_public:
            check_private(api, repository, licences, "with `lawm-hf push --allow_public`")
        if tag and tag in (found.name for found in api.list_repo_refs(repository).tags):
            raise ValueError(
                f"`tag` must be new, got {tag!r}, which {repository!r} has. Nothing was uploaded. "
                "Choose another."
            )
        if revision and not revision.startswith("refs/"):
            api.create_branch(repository, branch=revision, exist_ok=True)
        # Two runs pushed at once must not mix: the Hub refuses if this is no longer the newest.
        parent = getattr(api.repo_info(repository, revision=revision), "sha", None)
    if not (folder / "README.md").exists():
        write_card(folder, repository)
    rename_card(folder / "README.md", repository)
    shared = yaml.safe_dump({k: _without_folders(v) for k, v in args.items()}, sort_keys=False)
    seen, shown = [*licences.values()], args.get("eval_source", "auto")
    if shown not in ("auto", "none"):  # Then its frames are on the pictures.
        seen.append(licence(shown))
    files = _results(folder, with_frames=all(found.allows_frames for found in seen))
    with hub_errors(repository):
        commit = api.create_commit(
            repo_id=repository,
            operations=[
                CommitOperationAdd("args.yaml", shared.encode()),
                *(CommitOperationAdd(file.relative_to(folder).as_posix(), file) for file in files),
            ],
            commit_message="Upload a lawm_hf run",
            revision=revision,
            create_pr=create_pr,
            parent_commit=parent,
        )
    with hub_errors(repository, f"The run itself is uploaded: {commit}."):
        if tag:
            api.create_tag(repository, tag=tag, revision=commit.oid)
        if collection:
            _collect(api, collection, repository)
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


def _collect(api: Any, collection: str, repository: str) -> None:
    """Add the repository to a collection, by title or identifier; once is enough."""
    slug = collection
    if not _SLUG.fullmatch(collection):
        owner = repository.split("/")[0]
        made = api.create_collection(collection, namespace=owner, private=True, exists_ok=True)
        slug = made.slug
    api.add_collection_item(slug, repository, "model", exists_ok=True)


def _results(folder: Path, with_frames: bool) -> list[Path]:
    """The files of a run that are meant for others."""
    patterns = [*_RESULT_FILES, *WEIGHTS, *(["strip*.png"] if with_frames else [])]
    files = {
        file for part in PARTS for pattern in patterns for file in (folder / part).glob(pattern)
    }
    for file in [*files]:
        if file.name in ("config.json", "processor_config.json"):
            named = read_json(file, dict).get("auto_map")
            for name in named.values() if isinstance(named, dict) else ():
                module = file.with_name(f"{str(name).split('.')[0]}.py")
                if module.is_file():
                    files |= {module, *map(Path, get_relative_import_files(module))}
    for file in files:
        if not file.resolve().is_relative_to(folder.resolve()):
            raise ValueError(
                f"A push uploads files of the run's folder, got {file}, a link to "
                f"{file.resolve()}. Put the file itself there. Nothing was uploaded."
            )
    return sorted(files)


def _without_folders(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return shareable(value) if isinstance(value, str) else value
