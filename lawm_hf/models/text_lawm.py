# SPDX-License-Identifier: Apache-2.0
"""Instructions to vectors: hashing without weights, or any frozen transformers text model."""

import hashlib
import json
import logging
import re
import unicodedata
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

logger = logging.getLogger(__name__)

HASHING = "hashing"
EMBEDDINGS_FILE = "task_embeddings.safetensors"
# Above this the file would outweigh a small policy; a checkpoint then needs its text model again.
_MOST_SAVED_INSTRUCTIONS = 10_000
_PROBES = 4
_CLIP_TYPES = ("clip", "clip_text_model")


def hash_words(instruction: str, size: int) -> Tensor:
    """Sum of one fixed sparse vector for each word, `(L,)`: feature hashing without weights.

    Each word owns 4 distinct places with signs, taken from its BLAKE2 digest, so two words look
    alike only if all 4 coincide. Letter case, punctuation and the *order* of words do not count:
    "red cube" and "Cube, red!" are the same. Words are what blanks and punctuation separate.

    Args:
        instruction: Any text.
        size: Width `L` of the vector, at least 32.
    """
    vector = torch.zeros(size)
    text = unicodedata.normalize("NFKC", instruction).casefold()
    for word in re.findall(r"\w+", text):
        digest = hashlib.blake2b(word.encode()).digest()  # 64 bytes: 16 draws, of which 4 are used
        places: dict[int, float] = {}
        for start in range(0, len(digest), 4):
            draw = int.from_bytes(digest[start : start + 4], "little")
            places.setdefault((draw >> 1) % size, 1.0 if draw & 1 else -1.0)
            if len(places) == _PROBES:
                break
        for place, sign in places.items():
            vector[place] += sign
    return vector


class TaskEncoder:
    """Embeds instructions once each; a text model is loaded at the first instruction it must read.

    Every embedding is scaled to unit mean square, so that policies see the same magnitude from any
    encoder (CLIP's features and MiniLM's differ by a factor of ten).

    Args:
        name: `"hashing"`, or the id (with `@revision` if you like) or folder of a transformers text
            model. CLIP gives its projected text features, any other model the mean of its last
            hidden states.
        size: Width `L` of the embeddings; `None` for the encoder's own (hashing: 512).
    """

    def __init__(self, name: str, size: int | None = None):
        if not isinstance(name, str):
            raise ValueError(f"`text_encoder` must be a text, the name of a model, got {name!r}.")
        self.name = name
        self.size = size or (512 if name == HASHING else _text_model_width(name))
        if name == HASHING and self.size < 32:
            raise ValueError(
                f"`task_embed_size` must be at least 32 for hashing, got {self.size}: words would "
                "collide. Use 128 or more."
            )
        self.embeddings: dict[str, Tensor] = {}
        self._model = None

    def __call__(self, tasks: list[str]) -> Tensor:
        """Embed instructions: `(B, L)` on the CPU.

        Raises:
            ValueError: If an instruction is empty.
            OSError: If the text model is needed and cannot be loaded.
        """
        tasks = [task.strip() for task in tasks]
        new = [task for task in dict.fromkeys(tasks) if task not in self.embeddings]
        for task in new:
            if not re.search(r"\w", task):
                raise ValueError(
                    f"An instruction must hold at least one word, got {task!r}. Drop such "
                    "episodes, or give them all one neutral instruction, such as 'do the task'."
                )
        if new and self.name == HASHING:
            vectors = torch.stack([hash_words(task, self.size) for task in new])
            self._remember(new, vectors)
        elif new:
            for start in range(0, len(new), 256):
                chunk = new[start : start + 256]
                self._remember(chunk, self._read(chunk))
        return torch.stack([self.embeddings[task] for task in tasks])

    def _remember(self, tasks: list[str], vectors: Tensor) -> None:
        vectors = vectors / vectors.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6)
        self.embeddings.update(zip(tasks, vectors.unbind(), strict=True))

    @torch.no_grad()
    def _read(self, tasks: list[str]) -> Tensor:
        """Embed with the text model, `(B, L)`."""
        if self._model is None:
            try:
                self._model = _load_text_model(self.name)
            except OSError as error:
                raise OSError(
                    f"The instruction {tasks[0]!r} is not among the {len(self.embeddings)} saved "
                    f"with this processor, and its text encoder {self.name!r} could not be loaded. "
                    "Give access to the model, or use one of the saved instructions."
                ) from error
        tokenizer, model = self._model
        tokens = tokenizer(tasks, padding=True, truncation=True, return_tensors="pt")
        output = model(**tokens)
        if "text_embeds" in output:
            vectors = output.text_embeds
        else:
            keep = tokens["attention_mask"][..., None].float()
            vectors = (output.last_hidden_state * keep).sum(1) / keep.sum(1)
        if vectors.shape[-1] != self.size:
            raise ValueError(
                f"`task_embed_size` must be the width of the text encoder {self.name!r}, which is "
                f"{vectors.shape[-1]}, got {self.size}. Leave it out, and build the policy with "
                "the processor's `task_embed_size`."
            )
        return vectors.float()

    def save(self, folder: str | Path) -> None:
        """Write the embeddings of a text model to `task_embeddings.safetensors` in a folder."""
        if self.name == HASHING or not self.embeddings:
            return
        if len(self.embeddings) > _MOST_SAVED_INSTRUCTIONS:
            logger.warning(
                "Not saving the embeddings of %d instructions: loading will need %r.",
                len(self.embeddings),
                self.name,
            )
            return
        about = {"text_encoder": self.name, "instructions": json.dumps(list(self.embeddings))}
        vectors = torch.stack(list(self.embeddings.values())).contiguous()
        save_file({"embeddings": vectors}, Path(folder) / EMBEDDINGS_FILE, metadata=about)

    def load(self, path: str | Path) -> None:
        """Take over embeddings written by `save`, unless another encoder or width made them."""
        try:
            with safe_open(path, framework="pt") as file:
                about, vectors = file.metadata(), file.get_tensor("embeddings")
            encoder, instructions = about["text_encoder"], json.loads(about["instructions"])
            found = dict(zip(instructions, vectors.unbind(), strict=True))
        except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} must hold the embeddings of instructions, but is damaged ({error}). Fetch "
                "or save it again."
            ) from error
        if encoder == self.name and vectors.shape[1] == self.size:
            self.embeddings.update(found)


def _text_model_width(name: str) -> int:
    """Width of a text model's features, from its configuration alone."""
    from transformers import AutoConfig

    model, revision = model_and_revision(name)
    config = AutoConfig.from_pretrained(model, revision=revision)
    text = config.get_text_config()
    return text.projection_dim if config.model_type in _CLIP_TYPES else text.hidden_size


def _load_text_model(name: str):
    """Tokenizer and frozen model; imported here, since most runs use `hashing`."""
    from transformers import (
        AutoConfig,
        AutoModelForTextEncoding,
        AutoTokenizer,
        CLIPTextModelWithProjection,
    )

    model, revision = model_and_revision(name)
    tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
    is_clip = AutoConfig.from_pretrained(model, revision=revision).model_type in _CLIP_TYPES
    model_class = CLIPTextModelWithProjection if is_clip else AutoModelForTextEncoding
    loaded = model_class.from_pretrained(model, revision=revision)
    return tokenizer, loaded.eval().requires_grad_(False)


def model_and_revision(name: str) -> tuple[str, str]:
    """`user/model@revision` apart; a folder may have an `@` in its name."""
    model, at, revision = name.rpartition("@")
    return (model, revision) if at and not Path(name).exists() else (name, "main")
