# SPDX-License-Identifier: Apache-2.0
"""How a processor is saved and loaded: its settings, instruction embeddings and tokenizer."""

import copy
from pathlib import Path
from typing import Any, Self

from transformers import ProcessorMixin
from transformers.utils.hub import cached_file

from .normalization_lawm import Normalizer
from .sharing_lawm import HUB_KEYS, SharedOnHub, not_found
from .text_lawm import EMBEDDINGS_FILE, TaskEncoder
from .tokens_lawm import TOKENIZER_FILE, TaskTokenizer


class SavedProcessor(SharedOnHub, ProcessorMixin):  # pyright: ignore[reportIncompatibleMethodOverride]
    """What `LAWMProcessor` is as a file."""

    task_encoder: TaskEncoder
    task_reader: TaskTokenizer | None
    state_normalizer: Normalizer
    action_normalizer: Normalizer

    def to_dict(self) -> dict[str, Any]:
        """Constructor arguments, for `processor_config.json`."""
        light = copy.copy(self)
        del light.task_encoder, light.task_reader, light.state_normalizer, light.action_normalizer
        return super(SavedProcessor, light).to_dict()

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any
    ):
        """Write `processor_config.json`, instruction embeddings and tokenizer, if there are any."""
        if push_to_hub:
            return self._save_and_push(save_directory, kwargs)
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        self.task_encoder.save(save_directory)
        if self.task_reader is not None:
            self.task_reader.save(save_directory)
        return super().save_pretrained(str(save_directory), **kwargs)

    @classmethod
    def get_processor_dict(
        cls, pretrained_model_name_or_path, **kwargs
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The saved settings. Where there are none transformers would go on with its defaults.

        Raises:
            FileNotFoundError: If there are none.
        """
        settings, rest = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        if not settings:
            raise FileNotFoundError(
                "no processor_config.json, which holds the size of pictures and the statistics of "
                "actions. Copy it from where the model was trained, or save a `LAWMProcessor`."
            )
        return settings, rest

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> Self:
        """Load a processor; keyword arguments of the constructor override what was saved.

        Raises:
            OSError: If there is none.
            ValueError: If the saved file holds something else.
            TypeError: If a keyword is neither the constructor's nor the Hub's.
        """
        path = str(pretrained_model_name_or_path)
        try:
            loaded: Any = super().from_pretrained(path, return_unused_kwargs=True, **kwargs)
        except OSError as error:
            raise not_found(path, error) from error
        except (TypeError, AttributeError, ValueError, RecursionError) as error:  # says not where
            raise ValueError(
                f"processor_config.json of {path!r} must hold the settings of a `LAWMProcessor`, "
                f"got: {error} Fetch or save it again."
            ) from error
        processor, unused = loaded
        unknown = sorted(set(unused) & set(kwargs) - {"trust_remote_code", "code_revision"})
        if unknown:
            raise TypeError(
                f"`{cls.__name__}` has no option `{unknown[0]}`. Its docstring has those it has."
            )
        readers = {EMBEDDINGS_FILE: processor.task_encoder}
        if processor.task_reader is not None:
            readers[TOKENIZER_FILE] = processor.task_reader
        for file, reader in readers.items():
            saved = cached_file(
                path,
                file,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
                **{key: kwargs[key] for key in HUB_KEYS if key in kwargs},
            )
            if saved is not None:
                reader.load(saved)
        return processor
