# SPDX-License-Identifier: Apache-2.0
"""The flags that the training recipes share."""

from dataclasses import dataclass

from .fields import CommandArgs, arg


@dataclass
class TrainingArgs(CommandArgs):
    """Arguments that pretraining and finetuning have in common."""

    output_dir: str = arg("outputs", "where checkpoints, logs and results go", group="output")
    seed: int = arg(
        0, "seed of initialisation, data order and sampling", min=0, max=2**32 - 1, group="training"
    )
    steps: int = arg(1000, "updates of the optimiser", min=1, group="training")
    batch_size: int = arg(64, "windows per process and micro-batch", min=1, group="training")
    gradient_accumulation_steps: int = arg(1, "micro-batches per update", min=1, group="training")
    learning_rate: float = arg(1e-3, "peak learning rate of the policy", above=0, group="training")
    vision_learning_rate: float = arg(
        3e-3, "peak learning rate of the policy's vision encoder", above=0, group="training"
    )
    weight_decay: float = arg(
        1e-6, "AdamW weight decay on matrices (not on biases and norms)", min=0, group="training"
    )
    warmup_steps: int = arg(50, "updates of linear warm-up", min=0, group="training")
    min_lr_ratio: float = arg(
        0.02,
        "learning rate at the end of the cosine, as a share of the peak",
        min=0,
        max=1,
        group="training",
    )
    max_grad_norm: float = arg(
        10.0, "clip the policy's gradient to this norm", above=0, group="training"
    )
    mixed_precision: str | None = arg(
        None,
        "precision of the forward pass; by default what the launcher says",
        choices=("no", "bf16", "fp16"),
        group="training",
    )
    compile: bool = arg(False, "torch.compile the model", group="training")
    gradient_checkpointing: bool = arg(
        False,
        "keep fewer activations and compute them again: less memory, more time",
        group="training",
    )
    num_workers: int = arg(
        0, "data loading processes; 0 loads in the main one", min=0, group="data"
    )
    log_every: int = arg(20, "updates between log lines", min=1, group="output")
    save_every: int = arg(
        0, "updates between resumable checkpoints; 0 keeps only the last", min=0, group="output"
    )
    resume: bool = arg(False, "continue from the newest checkpoint in output_dir", group="training")
    next_epoch: bool = arg(
        False,
        "with resume: if the order of data cannot go on, begin at the next epoch",
        group="training",
    )
    overwrite: bool = arg(False, "start again in an output_dir that holds a run", group="output")
    report_to: list[str] = arg(
        [], "trackers", choices=("tensorboard", "wandb", "trackio"), group="output"
    )
    push_to_hub: str = arg(
        "", "Hub repository to push the result to; private unless it exists", group="output"
    )
