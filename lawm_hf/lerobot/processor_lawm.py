# SPDX-License-Identifier: Apache-2.0
"""LeRobot's pre- and post-processing pipelines for a LAWM policy."""

from typing import Any

from lerobot.processor import make_default_pre_post_processors

from .configuration_lawm import LeRobotLAWMConfig


def make_lawm_pre_post_processors(config: LeRobotLAWMConfig, dataset_stats: Any = None) -> Any:
    """The default pipelines without statistics: the policy's `LAWMProcessor` has them.

    Args:
        config: The policy's configuration, whose normalisation is the identity throughout.
        dataset_stats: Given by LeRobot; the policy takes them itself.
    """
    del dataset_stats
    return make_default_pre_post_processors(config, None)
