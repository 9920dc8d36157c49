# SPDX-License-Identifier: Apache-2.0
"""What the training recipes share: arguments, optimiser, schedule, checkpoints.

A recipe keeps the loop itself; nothing here calls back into it.
"""

import importlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DynamoBackend, TorchDynamoPlugin, set_seed
from torch import nn
from transformers import get_cosine_with_min_lr_schedule_with_warmup

from .arguments import arg
from .models import BakuConfig, BakuPolicy, DiffusionPolicy, DiffusionPolicyConfig, LAWMPolicy


@dataclass
class TrainingArgs:
    """Arguments that pretraining and finetuning have in common."""

    output_dir: str = arg("outputs", "where checkpoints, logs and results go")
    seed: int = arg(0, "seed of initialisation, data order and sampling")
    steps: int = arg(1000, "updates of the optimiser")
    batch_size: int = arg(64, "windows per process and micro-batch")
    gradient_accumulation_steps: int = arg(1, "micro-batches per update")
    learning_rate: float = arg(1e-3, "peak learning rate of the policy")
    vision_learning_rate: float = arg(3e-3, "peak learning rate of the policy's vision encoder")
    weight_decay: float = arg(1e-6, "AdamW weight decay on matrices (not on biases and norms)")
    warmup_steps: int = arg(50, "updates of linear warm-up")
    min_lr_ratio: float = arg(
        0.02, "learning rate at the end of the cosine, as a share of the peak"
    )
    max_grad_norm: float = arg(10.0, "clip the policy's gradient to this norm")
    mixed_precision: str = arg("no", "no or bf16")
    compile: bool = arg(False, "torch.compile the model")
    num_workers: int = arg(0, "data loading processes; 0 loads in the main one")
    log_every: int = arg(20, "updates between log lines")
    save_every: int = arg(0, "updates between resumable checkpoints; 0 keeps only the last")
    resume: bool = arg(False, "go on from the newest checkpoint in output_dir")
    overwrite: bool = arg(False, "begin anew in an output_dir that holds a run")
    report_to: list[str] = arg([], "trackers: tensorboard, wandb, trackio")
    push_to_hub: str = arg("", "Hub repository to push the result to; private unless it exists")


class ResumableLoader(Protocol):
    """A loader whose position is part of a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Position after the last batch that was handed out."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a position."""
        ...


class FocusedLoader:
    """Batches of one loader first, then of another; its position is that of both.

    Finetuning starts on the first frames of each episode: there the instruction decides where to
    go. Among all frames they are few, and words bind to objects late or never.
    """

    def __init__(self, focus: Any, full: Any, focus_batches: int):
        self.loaders, self.focus_batches, self.count = (focus, full), focus_batches, 0

    def __iter__(self):
        streams = [iter(loader) for loader in self.loaders]
        while True:
            batch = next(streams[self.count >= self.focus_batches])
            self.count += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Position after the last batch that was handed out."""
        return {"count": self.count, "loaders": [x.state_dict() for x in self.loaders]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a position."""
        self.count = state["count"]
        for loader, position in zip(self.loaders, state["loaders"], strict=True):
            loader.load_state_dict(position)


def make_accelerator(args: TrainingArgs) -> Accelerator:
    """The accelerator of a recipe, seeded, and on a CPU with all its cores.

    `accelerate launch` sets `OMP_NUM_THREADS=1` when nobody asked otherwise, which would leave all
    cores but one idle in a single-process run.
    """
    checkpoints = _checkpoints(args.output_dir)
    if checkpoints and not args.resume and not args.overwrite:
        raise FileExistsError(
            f"`output_dir` must not hold another run, got {args.output_dir!r} with "
            f"{checkpoints[-1].name}. Pass --resume true to go on with it, --overwrite true to "
            "replace it, or another --output_dir."
        )
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        step_scheduler_with_optimizer=False,  # the schedule counts updates, not processes x updates
        log_with=[*args.report_to] or None,
        project_dir=args.output_dir,
        dynamo_plugin=TorchDynamoPlugin(backend=DynamoBackend.INDUCTOR) if args.compile else None,
        # Video without proprioception leaves the state token's parameters unused.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise RuntimeError(
            f"The launcher has started {launched} processes, but Accelerate sees "
            f"{accelerator.num_processes}: each would do all the work. On CPUs set "
            "ACCELERATE_USE_CPU=true before torchrun."
        )
    if accelerator.device.type == "cpu" and accelerator.num_processes == 1:
        threads = os.environ.get("LAWM_NUM_THREADS")
        torch.set_num_threads(int(threads) if threads else (os.cpu_count() or 1))
    set_seed(args.seed, device_specific=True)
    if accelerator.is_main_process and args.overwrite:
        for folder in checkpoints:
            shutil.rmtree(folder)
    accelerator.wait_for_everyone()
    return accelerator


def new_policy(policy_type: str, preset: str, **options: Any) -> LAWMPolicy:
    """A freshly initialised policy.

    Args:
        policy_type: `"baku"`, `"diffusion"`, or `"lerobot:act"`.
        preset: `"tabletop"` or `"default"` (the paper's sizes).
        **options: Fields of its configuration, over the preset's.

    Raises:
        ValueError: If there is no such policy.
    """
    if policy_type == "baku":
        return BakuPolicy(BakuConfig.from_preset(preset, **options))
    if policy_type == "diffusion":
        return DiffusionPolicy(DiffusionPolicyConfig.from_preset(preset, **options))
    if policy_type == "lerobot:act":
        act = importlib.import_module(".lerobot.act", __package__)  # only this needs LeRobot
        return act.LeRobotActPolicy(act.LeRobotActConfig.from_preset(preset, **options))
    raise ValueError(
        f'`policy_type` must be "baku", "diffusion" or "lerobot:act", got {policy_type!r}.'
    )


def parameter_groups(
    module: nn.Module, learning_rate: float, weight_decay: float, overrides: dict[str, float]
) -> list[dict[str, Any]]:
    """Groups for AdamW: decay on matrices only, and other learning rates by name prefix.

    Args:
        module: Whose parameters to group.
        learning_rate: For all that no prefix matches.
        weight_decay: For tensors of two or more dimensions.
        overrides: Learning rate by parameter-name prefix.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = next((r for p, r in overrides.items() if name.startswith(p)), learning_rate)
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": r, "weight_decay": d} for (r, d), p in groups.items()]


def make_optimizer(groups: list[dict[str, Any]], args: TrainingArgs):
    """AdamW (betas of the released code) with a cosine schedule and linear warm-up.

    Returns:
        The optimiser and its scheduler; step the scheduler once per update.
    """
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
    scheduler = get_cosine_with_min_lr_schedule_with_warmup(
        optimizer,
        num_warmup_steps=min(args.warmup_steps, args.steps),
        num_training_steps=args.steps,
        min_lr_rate=args.min_lr_ratio,
    )
    return optimizer, scheduler


def to_device(raw: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A raw batch without its book-keeping, on a device; the processor works where its input is."""
    return {
        key: value.to(device, non_blocking=True) if torch.is_tensor(value) else value
        for key, value in raw.items()
        if key != "index"
    }


def check_finite(loss: torch.Tensor, step: int) -> None:
    """Stop at the first loss that is not a number.

    Raises:
        FloatingPointError: With what to try.
    """
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"The loss must stay finite, got {loss.item()} at update {step}. Lower the learning "
            "rate or the gradient norm, or resume from the last checkpoint with another seed."
        )


# ------------------------------------------------------------------------------- checkpoints


def save_checkpoint(
    accelerator: Accelerator, output_dir: str | Path, step: int, loader: ResumableLoader
) -> None:
    """Write everything that resuming needs to `step_<n>/`, all or nothing.

    The folder gets its name only when it is complete, so a run killed while saving resumes from
    the checkpoint before; older ones are removed afterwards.
    """
    final = Path(output_dir) / f"step_{step:06d}"
    partial = final.with_name(f".{final.name}.partial")
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    position = partial / f"data_position_{accelerator.process_index}.json"
    position.write_text(json.dumps(loader.state_dict()))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (partial / "progress.json").write_text(
            json.dumps({"step": step, "num_processes": accelerator.num_processes})
        )
        shutil.rmtree(final, ignore_errors=True)  # written before, and resumed from an older one
        partial.replace(final)
        for old in _checkpoints(output_dir)[:-1]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def load_checkpoint(
    accelerator: Accelerator, output_dir: str | Path, loader: ResumableLoader
) -> int:
    """Restore the newest checkpoint: weights, optimiser, schedule, random states, data position.

    Returns:
        Updates done so far; 0 if there is no checkpoint yet.

    Raises:
        ValueError: If it was written by another number of processes: the data order would differ.
    """
    found = _checkpoints(output_dir)
    if not found:
        accelerator.print(f"No checkpoint in {output_dir}: starting from the beginning.")
        return 0
    progress = json.loads((found[-1] / "progress.json").read_text())
    if progress["num_processes"] != accelerator.num_processes:
        raise ValueError(
            f"A run must be resumed with as many processes as it was started with, got "
            f"{accelerator.num_processes} for a checkpoint of {progress['num_processes']}. Launch "
            f"{progress['num_processes']}, or start anew from the saved weights."
        )
    accelerator.load_state(str(found[-1]))
    position = found[-1] / f"data_position_{accelerator.process_index}.json"
    loader.load_state_dict(json.loads(position.read_text()))
    accelerator.print(f"Resumed from {found[-1].name}.")
    return progress["step"]


def _checkpoints(output_dir: str | Path) -> list[Path]:
    folders = Path(output_dir).glob("step_*")
    return sorted(f for f in folders if re.fullmatch(r"step_\d{6,}", f.name))
