# SPDX-License-Identifier: Apache-2.0
"""What the training recipes share: arguments, optimiser, checkpoints, the record of a run.

A recipe keeps the loop itself; nothing here calls back into it.
"""

from .args import TrainingArgs, make_accelerator
from .batches import FocusedLoader, to_device
from .checkpoints import load_checkpoint, save_checkpoint
from .new_policy import new_policy
from .optimizer import check_finite, make_optimizer, parameter_groups
from .run_log import ProgressLog, write_run_record

__all__ = [
    "FocusedLoader",
    "ProgressLog",
    "TrainingArgs",
    "check_finite",
    "load_checkpoint",
    "make_accelerator",
    "make_optimizer",
    "new_policy",
    "parameter_groups",
    "save_checkpoint",
    "to_device",
    "write_run_record",
]
