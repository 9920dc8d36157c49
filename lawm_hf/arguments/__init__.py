# SPDX-License-Identifier: Apache-2.0
"""Command lines: one flat dataclass per command; a YAML file gives values, flags override.

Values are checked here, before models and data are opened, and whatever is wrong is one screen.
Nothing heavy is imported, so that `lawm-hf --help` is quick.
"""

from .fields import CommandArgs, TaskArgs, arg, as_flags, parse_json_options
from .outcome import Outcome
from .parsing import parse_args
from .running import check_placeholders, run_command
from .screen import missing_package, one_screen
from .training import TrainingArgs

__all__ = [
    "CommandArgs",
    "Outcome",
    "TaskArgs",
    "TrainingArgs",
    "arg",
    "as_flags",
    "check_placeholders",
    "missing_package",
    "one_screen",
    "parse_args",
    "parse_json_options",
    "run_command",
]
