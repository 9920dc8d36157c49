# SPDX-License-Identifier: Apache-2.0
"""The arguments that the training recipes share, and the accelerator that they describe."""

import os
import shutil
from dataclasses import dataclass

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DynamoBackend, TorchDynamoPlugin, set_seed

from ..arguments import CommandArgs, arg
from .checkpoints import _checkpoints


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
    mixed_precision: str = arg(
        "no", "precision of the forward pass", choices=("no", "bf16", "fp16")
    )
    compile: bool = arg(False, "torch.compile the model")
    num_workers: int = arg(0, "data loading processes; 0 loads in the main one", min=0)
    log_every: int = arg(20, "updates between log lines", min=1)
    save_every: int = arg(0, "updates between resumable checkpoints; 0 keeps only the last", min=0)
    resume: bool = arg(False, "go on from the newest checkpoint in output_dir")
    overwrite: bool = arg(False, "begin anew in an output_dir that holds a run")
    report_to: list[str] = arg([], "trackers", choices=("tensorboard", "wandb", "trackio"))
    push_to_hub: str = arg("", "Hub repository to push the result to; private unless it exists")


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
