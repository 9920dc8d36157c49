# SPDX-License-Identifier: Apache-2.0
"""Sharing results: push a run's folder to the Hub."""

from pathlib import Path

from huggingface_hub import HfApi


def push_run(folder: str | Path, repository: str) -> str:
    """Upload the models, processor and reports of a run; not its resumable state or logs.

    The repository is created private if it does not exist: checkpoints may carry the licence of
    the data behind them.

    Returns:
        Address of the commit.
    """
    api = HfApi()
    api.create_repo(repository, private=True, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repository,
        folder_path=str(folder),
        ignore_patterns=["step_*/**", ".*", "**/events.out.*", "log.jsonl"],
        commit_message="Upload a lawm_hf run",
    )
    return str(commit)
