# SPDX-License-Identifier: Apache-2.0
"""`push_to_hub` of policies, world models, pairs and processors: one commit, private, with a card.

Transformers' own makes a public repository with a card that says nothing, and leaves the processor
to a second commit. A run of a recipe knows more about itself: `lawm-hf push` uploads that.
"""

import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import EntryNotFoundError

# Of what `from_pretrained` is told, what concerns files.
HUB_KEYS = ("subfolder", "revision", "cache_dir", "token", "local_files_only", "force_download")
_CARD = """---
{metadata}
---

# {title}

{what}, uploaded from Python. How it was trained, on what data and under which licence is not
recorded here: **state it before you share this**.

## Use

```python
from lawm_hf import {names}

{loads}
```
"""


def not_found(folder: str | Path, error: Exception) -> OSError:
    """What to raise where transformers has found no folder and no repository.

    Args:
        folder: As it was given: folder or Hub repository.
        error: Transformers', which speaks of the Hub alone.
    """
    said = str(error).strip().splitlines()[0]
    if Path(folder).is_dir():
        said = said.partition(" Checkout 'https:")[0]  # of the Hub, where it never was
        return OSError(f"{str(folder)!r} must be what a finished run has written, got: {said}")
    what = "a file" if Path(folder).is_file() else f"no folder of that name in {Path.cwd()}"
    return OSError(
        "A model must be in a folder that a run has written, or in a repository USER/NAME of the "
        f"Hub, got {str(folder)!r}: {what}. Of the Hub: {said} Check the name."
    )


class SharedOnHub:
    """What models and processors have in common on their way to the Hub."""

    # Where the processor lies beside a model, and the model's parts.
    processor_folder = ""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        processor: Any = None,
        private: bool = True,
        revision: str | None = None,
        create_pr: bool = False,
        tags: list[str] | None = None,
        commit_message: str | None = None,
        commit_description: str | None = None,
        token: str | bool | None = None,
        **saving: Any,
    ) -> CommitInfo:
        """Upload it in one commit, with a card; a card that is there already stays.

        Args:
            repo_id: `user/name`, made if it does not exist.
            processor: A `LAWMProcessor` to go with a model, in the same commit.
            private: Whether a new repository is; one that exists stays as it is.
            revision: Branch to write to, made if it does not exist; the main one by default.
            create_pr: Open a pull request instead.
            tags: For the card's metadata, besides `lawm` and `robotics`.
            commit_message: First line of the commit.
            commit_description: The rest of it.
            token: By default the one that `hf auth login` has saved.
            **saving: For `save_pretrained`, for instance `max_shard_size`.

        Returns:
            The commit; as a text, its address.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **saving)  # pyright: ignore[reportAttributeAccessIssue]
            if processor is not None:
                processor.save_pretrained(Path(folder) / self.processor_folder)
            card = self._card(repo_id, processor is not None, tags or [])
            try:
                path = api.hf_hub_download(repo_id, "README.md", revision=revision)
                card = _with_tags(Path(path).read_text(encoding="utf-8"), tags or [])
            except EntryNotFoundError:
                pass
            (Path(folder) / "README.md").write_text(card, encoding="utf-8")
            files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
            return api.create_commit(
                repo_id,
                [CommitOperationAdd(f.relative_to(folder).as_posix(), f) for f in files],
                commit_message=commit_message or f"Upload {type(self).__name__}",
                commit_description=commit_description,
                revision=revision,
                create_pr=create_pr,
            )

    def _save_and_push(self, folder: str | Path, saving: dict[str, Any]) -> None:
        """What `save_pretrained(folder, push_to_hub=True)` does, under transformers' names."""
        names = ("private", "revision", "create_pr", "tags", "commit_message", "token")
        given = {name: saving.pop(name) for name in names if name in saving}
        repo_id = saving.pop("repo_id", None) or Path(folder).resolve().name
        self.save_pretrained(folder, **saving)  # pyright: ignore[reportAttributeAccessIssue]
        self.push_to_hub(repo_id, **given, **saving)

    def _card(self, repo_id: str, has_processor: bool, tags: list[str]) -> str:
        """A card that says what is known from the object alone."""
        config, kind = getattr(self, "config", None), type(self).__name__
        what, names, where = f"`{kind}`", [kind], f'"{repo_id}"'
        if config is not None:
            size = self.num_parameters()  # pyright: ignore[reportAttributeAccessIssue]
            what += f" (`{config.model_type}`, {size:,} parameters)"
        variable = "processor" if config is None else "model"
        loads = [f"{variable} = {kind}.from_pretrained({where})"]
        if has_processor:
            names.append("LAWMProcessor")
            inside = f', subfolder="{self.processor_folder}"' if self.processor_folder else ""
            loads.append(f"processor = LAWMProcessor.from_pretrained({where}{inside})")
        metadata = ModelCardData(
            library_name="lawm_hf",
            pipeline_tag="robotics",
            tags=[*dict.fromkeys(["lawm", "robotics", *tags])],
        )
        return _CARD.format(
            metadata=metadata.to_yaml(),
            title=repo_id.split("/")[-1],
            what=what,
            names=", ".join(names),
            loads="\n".join(loads),
        )


def _with_tags(text: str, tags: list[str]) -> str:
    """Its owner's card, with tags that it lacks; untouched if it lacks none."""
    card = ModelCard(text) if tags else None
    has = (card.data.tags or []) if card else []  # pyright: ignore[reportAttributeAccessIssue]
    if card is None or {*tags} <= {*has}:
        return text
    card.data.tags = [*dict.fromkeys([*has, *tags])]  # pyright: ignore[reportAttributeAccessIssue]
    return str(card)
