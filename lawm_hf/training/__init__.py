# SPDX-License-Identifier: Apache-2.0
"""What the training recipes share: arguments, optimiser, checkpoints, the record of a run.

A recipe keeps the loop itself; nothing here calls back into it.
"""

from .accelerator import make_accelerator
from .args import TrainingArgs
from .batches import FocusedLoader
from .checkpoints import find_checkpoints, load_checkpoint, save_checkpoint
from .optimizer import (
    check_batch,
    freeze_unused,
    make_optimizer,
    parameter_groups,
)
from .run_log import ProgressLog, told_only, write_run_record
from .sharding import AveragedWeights, clip_norm, prepare, whole_model

_checkpoints = find_checkpoints  # its former name

__all__ = [
    "AveragedWeights",
    "FocusedLoader",
    "ProgressLog",
    "TrainingArgs",
    "check_batch",
    "clip_norm",
    "find_checkpoints",
    "freeze_unused",
    "load_checkpoint",
    "make_accelerator",
    "make_optimizer",
    "parameter_groups",
    "prepare",
    "save_checkpoint",
    "told_only",
    "whole_model",
    "write_run_record",
]
