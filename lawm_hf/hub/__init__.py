# SPDX-License-Identifier: Apache-2.0
"""Sharing: model cards, licences of the data behind a checkpoint, pushes, LeRobot's files."""

from huggingface_hub import HfApi

from .card import build_card
from .card_file import add_results, write_card
from .lerobot_export import export_for_lerobot
from .licences import licence, pretraining_sources, shareable
from .push import check_repository, push_run

__all__ = [
    "HfApi",
    "add_results",
    "build_card",
    "check_repository",
    "export_for_lerobot",
    "licence",
    "pretraining_sources",
    "push_run",
    "shareable",
    "write_card",
]
