# SPDX-License-Identifier: Apache-2.0
"""The arguments that the training recipes share, and which of them a resumed run may change."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..arguments import CommandArgs, arg, as_flags
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


@dataclass
class TrainingArgs(CommandArgs):
    """Arguments that pretraining and finetuning have in common."""

    output_dir: str = arg("outputs", "where checkpoints, logs and results go")
    seed: int = arg(0, "seed of initialisation, data order and sampling", min=0)
    steps: int = arg(1000, "updates of the optimiser", min=1)
    batch_size: int = arg(64, "windows per process and micro-batch", min=1)
    gradient_accumulation_steps: int = arg(1, "micro-batches per update", min=1)
    learning_rate: float = arg(1e-3, "peak learning rate of the policy", above=0)
    vision_learning_rate: float = arg(
        3e-3, "peak learning rate of the policy's vision encoder", above=0
    )
    weight_decay: float = arg(
        1e-6, "AdamW weight decay on matrices (not on biases and norms)", min=0
    )
    warmup_steps: int = arg(50, "updates of linear warm-up", min=0)
    min_lr_ratio: float = arg(
        0.02, "learning rate at the end of the cosine, as a share of the peak", min=0, max=1
    )
    max_grad_norm: float = arg(10.0, "clip the policy's gradient to this norm", above=0)
    mixed_precision: str | None = arg(
        None,
        "precision of the forward pass; by default what the launcher says",
        choices=("no", "bf16", "fp16"),
    )
    compile: bool = arg(False, "torch.compile the model")
    gradient_checkpointing: bool = arg(
        False, "keep fewer activations and compute them again: less memory, more time"
    )
    num_workers: int = arg(0, "data loading processes; 0 loads in the main one", min=0)
    log_every: int = arg(20, "updates between log lines", min=1)
    save_every: int = arg(0, "updates between resumable checkpoints; 0 keeps only the last", min=0)
    resume: bool = arg(False, "continue from the newest checkpoint in output_dir")
    next_epoch: bool = arg(
        False, "with resume: if the order of data cannot go on, begin at the next epoch"
    )
    overwrite: bool = arg(False, "start again in an output_dir that holds a run")
    report_to: list[str] = arg([], "trackers", choices=("tensorboard", "wandb", "trackio"))
    push_to_hub: str = arg("", "Hub repository to push the result to; private unless it exists")


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
