# SPDX-License-Identifier: Apache-2.0
"""A converted dataset: whose it is, and its way to the Hub."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.errors import RepositoryNotFoundError

from .. import hub
from ..writing.atomic import write_text_atomic
from .answers import hub_errors
from .licences import ORIGIN_FILE, UNKNOWN, label_sources, licence, origin, shareable
from .push import check_repository
from .text import plain


def check_publication(spec: str, repository: str, public: bool, seen: Sequence[str] = ()) -> None:
    """Find what must not be uploaded before it is converted.

    Args:
        spec: Of the source.
        repository: `user/name` of a dataset.
        public: Whether it shall be public.
        seen: Specs of what the policy was trained on that labels it.

    Raises:
        ValueError: If the licence of the source forbids to pass it on, and the repository is public
            or shall be, or its name is none.
    """
    check_repository(repository)
    learned = [s for s in (*seen, *label_sources(spec, remote=True)) if not _allows_weights(s)]
    claims = [source_of(spec), *learned]
    source = next(filter(_forbids, claims), None)
    if source is not None and (public or _is_public(repository)):
        got = "--public" if public else f"{repository!r}, which is public"
        raise ValueError(
            "Frames, and labels learned from them, may be published only if the licence of the "
            f"data allows it, and {source!r} is "
            f"{licence(source).text}; got {got}. Nothing was converted or uploaded. Leave "
            "`--public` out, name a repository that is private or does not exist, and keep it so."
        )


def describe_set(folder: Path, spec: str) -> None:
    """Write the card of a converted set, and where it comes from, for converting it again."""
    source = source_of(spec)
    found = licence(source)
    told = "See the licence of the original data." if found is UNKNOWN else f"{found.text}."
    front: dict[str, Any] = {"tags": ["lawm_hf", "video"], "task_categories": ["robotics"]}
    if found.allows_frames:  # others would have to be described; the text does
        front["license"] = found.name
    card = f"---\n{yaml.safe_dump(front)}---\n\n"
    card += f"# {plain(source.partition(':')[0])}, converted by lawm_hf\n\n{told}\n"
    if _forbids(source):
        card += "Keep copies private. Weights trained on it should say so.\n"
    if not (folder / "README.md").exists():  # it may be the user's by now
        (folder / "README.md").write_text(card, encoding="utf-8")
    write_text_atomic(folder / ORIGIN_FILE, json.dumps({"source": source}) + "\n")


def push_set(folder: Path, repository: str, *, private: bool) -> None:
    """Upload the folder as a dataset repository; done again, it sends what is not there yet."""
    api: Any = hub.HfApi()  # looked up where a caller may have put his own
    done = f"The set is in {folder}."
    with hub_errors(repository, done):
        api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            repo_type="dataset",
            ignore_patterns=[".parts/*"],
            commit_message="Upload a set made by lawm_hf",
        )


def source_of(spec: str) -> str:
    """What the data were in the beginning; of two claims the one that forbids more."""
    claims = [found for found in (origin(spec, remote=True), shareable(spec)) if found]
    return next(filter(_forbids, claims), claims[0])


def _forbids(source: str) -> bool:
    found = licence(source)
    return not found.allows_frames and found is not UNKNOWN


def _allows_weights(source: str) -> bool:
    return licence(source).allows_public_weights


def _is_public(repository: str) -> bool:
    try:
        found = hub.HfApi().repo_info(repository, repo_type="dataset")
    except RepositoryNotFoundError:
        return False
    return getattr(found, "private", None) is False
