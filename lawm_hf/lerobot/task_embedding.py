# SPDX-License-Identifier: Apache-2.0
"""A step of LeRobot's preprocessor: the instruction, embedded, as the state of the environment."""

from dataclasses import dataclass
from typing import Any

import torch
from lerobot.configs import FeatureType, PipelineFeatureType, PolicyFeature
from lerobot.lerobot_types import TransitionKey
from lerobot.processor import ObservationProcessorStep, ProcessorStepRegistry
from lerobot.utils.constants import OBS_ENV_STATE

from ..models.text_lawm import TaskEncoder


@ProcessorStepRegistry.register("lawm_task_embedding")
@dataclass
class TaskEmbeddingStep(ObservationProcessorStep):
    """Embeds `task` as a `LAWMProcessor` does; see there for the arguments."""

    text_encoder: str = "hashing"
    task_embed_size: int | None = None
    task_center: list[float] | None = None

    def __post_init__(self):
        self._encoder = TaskEncoder(self.text_encoder, self.task_embed_size)
        self._center = None if self.task_center is None else torch.tensor(self.task_center)

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Add the embedding, `(B, L)`.

        Raises:
            ValueError: If there is no instruction.
        """
        transition: Any = self._current_transition
        data = transition.get(TransitionKey.COMPLEMENTARY_DATA) or {}
        task = data.get("task")
        if not task:
            raise ValueError("This policy needs an instruction, got none. Give --task.")
        embeds = self._encoder([task] if isinstance(task, str) else list(task))
        observation[OBS_ENV_STATE] = embeds if self._center is None else embeds - self._center
        return observation

    def get_config(self) -> dict[str, Any]:
        """For the pipeline's JSON file."""
        return {
            "text_encoder": self.text_encoder,
            "task_embed_size": self.task_embed_size,
            "task_center": self.task_center,
        }

    def transform_features(
        self, features: dict[PipelineFeatureType, dict[str, PolicyFeature]]
    ) -> dict[PipelineFeatureType, dict[str, PolicyFeature]]:
        """Declare the embedding."""
        shape = (self._encoder.size,)
        features[PipelineFeatureType.OBSERVATION][OBS_ENV_STATE] = PolicyFeature(
            FeatureType.ENV, shape
        )
        return features
