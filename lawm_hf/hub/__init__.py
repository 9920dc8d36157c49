# SPDX-License-Identifier: Apache-2.0
"""Sharing: model cards, licences of the data behind a checkpoint, pushes, LeRobot's files."""

from .card import build_card
from .lerobot_export import export_for_lerobot
from .licences import licence, pretraining_sources, shareable
from .push import add_results, push_run, write_card

__all__ = [
    "add_results",
    "build_card",
    "export_for_lerobot",
    "licence",
    "pretraining_sources",
    "push_run",
    "shareable",
    "write_card",
]
