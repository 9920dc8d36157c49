# SPDX-License-Identifier: Apache-2.0
"""Success in simulation: rolling a policy out, and what is kept of the episodes."""

from .execution import Execution, learn_execution
from .results import EpisodeResult, FailureVideos, Trial
from .rollout import Aggregation, ChunkAggregator, fingerprint, predict, rollout

__all__ = [
    "Aggregation",
    "ChunkAggregator",
    "EpisodeResult",
    "Execution",
    "FailureVideos",
    "Trial",
    "fingerprint",
    "learn_execution",
    "predict",
    "rollout",
]
