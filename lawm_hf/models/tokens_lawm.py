# SPDX-License-Identifier: Apache-2.0
"""Instructions to token ids, for a policy that reads the words by itself.

A tokenizer is a file; it is saved beside the processor, so that a checkpoint reads any instruction
without the model it came from.
"""

import hashlib
import re
import unicodedata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .text_lawm import HASHING, model_and_revision

TOKENIZER_FILE = "task_tokenizer.json"
NO_TOKEN = -1


def hash_ids(instruction: str, vocabulary: int) -> list[int]:
    """One id below `vocabulary` for each word: a tokenizer without a file.

    Letter case and punctuation do not count, the order of words does. Two words may get one id.
    """
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", instruction).casefold())
    digests = (hashlib.blake2b(word.encode(), digest_size=8).digest() for word in words)
    return [int.from_bytes(digest, "little") % vocabulary for digest in digests]


class TaskTokenizer:
    """Token ids of instructions; the tokenizer is loaded at the first instruction.

    Args:
        name: The id (with `@revision` if you like) or folder of a transformers tokenizer, or
            `"hashing:VOCABULARY"`.
        size: Tokens `T` of an instruction; shorter ones are filled up with -1.
    """

    def __init__(self, name: str, size: int):
        self.name, self.size = name, size
        self._tokenizer: Any = None
        self._known: dict[str, list[int]] = {}

    def __call__(self, tasks: list[str]) -> Tensor:
        """Ids `(B, T)`, int64, on the CPU; -1 where an instruction has ended.

        Raises:
            ValueError: If an instruction has no token, or more than `T`.
            OSError: If the tokenizer is needed and cannot be loaded.
        """
        tasks = [task.strip() for task in tasks]
        for task in dict.fromkeys(tasks):
            if task not in self._known:
                self._known[task] = self._read(task)
        rows = [self._known[task] for task in tasks]
        return torch.tensor([ids + [NO_TOKEN] * (self.size - len(ids)) for ids in rows])

    def _read(self, task: str) -> list[int]:
        if self.name.startswith(f"{HASHING}:"):
            ids = hash_ids(task, int(self.name.partition(":")[2]))
        else:
            ids = self._load()(task)["input_ids"]
        if not 1 <= len(ids) <= self.size:
            raise ValueError(
                f"An instruction must have from 1 to {self.size} tokens (`num_task_tokens`), got "
                f"{len(ids)} in {task!r:.100}. Drop such episodes, shorten it, or build the policy "
                "with more tokens."
            )
        return ids

    def _load(self) -> Any:
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            model, revision = model_and_revision(self.name)
            self._tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
        return self._tokenizer

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer to `task_tokenizer.json` in a folder; hashing needs none.

        Raises:
            ValueError: If it is not one of the `tokenizers` library.
        """
        if self.name.startswith(f"{HASHING}:"):
            return
        backend = getattr(self._load(), "backend_tokenizer", None)
        if backend is None:
            raise ValueError(
                f"The tokenizer of {self.name!r} must be one of the `tokenizers` library (a "
                f"`tokenizer.json`), got a {type(self._tokenizer).__name__}. Convert it, or take "
                "another backbone."
            )
        backend.save(str(Path(folder) / TOKENIZER_FILE))

    def load(self, path: str | Path) -> None:
        """Take over a tokenizer written by `save`.

        Raises:
            ValueError: If the file is damaged.
        """
        from transformers import PreTrainedTokenizerFast

        try:
            self._tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
        except Exception as error:  # of Rust, and of no class of its own
            raise ValueError(
                f"{path} must hold a tokenizer, but is damaged ({error}). Fetch or save it again."
            ) from error
