# SPDX-License-Identifier: Apache-2.0
"""Which arguments of a training recipe a resumed run may change."""

from pathlib import Path
from typing import Any

import yaml

from ..arguments import TrainingArgs, as_flags
from ..hub.licences import shareable
from ..writing.yaml_file import read_yaml

# What a resumed run takes as it is given. All else decides which model learns from which data.
# fmt: off
_CHANGEABLE = {
    "output_dir", "resume", "next_epoch", "overwrite", "steps", "batch_size",
    "gradient_accumulation_steps", "num_workers", "learning_rate", "vision_learning_rate",
    "world_model_learning_rate", "weight_decay", "warmup_steps", "min_lr_ratio", "max_grad_norm",
    "world_model_max_grad_norm", "ema_decay", "augment", "mixed_precision", "compile",
    "gradient_checkpointing", "log_every", "save_every", "report_every", "eval_source",
    "stop_on_alarm", "report_to", "push_to_hub", "import",
}
# fmt: on
_RECIPES = {"sources": "pretrain", "source": "finetune"}  # by what their data are called


def changed_arguments(args: TrainingArgs) -> list[str]:
    """Arguments of a resumed run that differ from `args.yaml` in its folder, a line each.

    Raises:
        ValueError: If it is one that going on cannot apply, or that file is damaged.
    """
    path = Path(args.output_dir) / "args.yaml"
    if not path.exists():
        return ["args.yaml is missing: whether the arguments are the same as before is not known."]
    try:
        before = read_yaml(path)
    except ValueError as error:
        raise ValueError(
            f"{path} must hold the arguments of the run, but is damaged ({error}). Restore it, or "
            "delete it to go on with the arguments given."
        ) from error
    now = yaml.safe_load(yaml.safe_dump(as_flags(args)))
    for data, recipe in _RECIPES.items():
        if data in before and data not in now:
            raise ValueError(
                f"A run is resumed by the recipe that began it, but {args.output_dir} holds one of "
                f"recipes/{recipe}.py. Choose another --output_dir without --resume"
                + (", and --pretrained for its weights." if recipe == "pretrain" else ".")
            )
    changed = [k for k in now if k in before and _moved(before[k]) != _moved(now[k])]
    if fixed := [k for k in changed if k not in _CHANGEABLE]:
        raise ValueError(
            f"A run is resumed with its own model and data, but `{fixed[0]}` was "
            f"{before[fixed[0]]!r}, got {now[fixed[0]]!r}. Give it as before, or start again in "
            "another --output_dir."
        )
    silent = ("output_dir", "resume", "next_epoch", "overwrite")
    return [f"{k}: {before[k]!r} -> {now[k]!r}" for k in changed if k not in silent]


def _moved(value: Any) -> Any:
    """An argument without the folders of this machine: data and checkpoints may move."""
    if isinstance(value, list):
        return [_moved(item) for item in value]
    return shareable(value) if isinstance(value, str) else value
