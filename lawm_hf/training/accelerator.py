# SPDX-License-Identifier: Apache-2.0
"""The accelerator of a recipe, and what must be right before it starts to work."""

import ctypes
import os
import platform
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.tracking import get_available_trackers
from accelerate.utils import DynamoBackend, TorchDynamoPlugin, broadcast_object_list, set_seed

from ..hub import check_repository
from ..writing.atomic import lock_folder, owns_folder
from .args import TrainingArgs
from .earlier_run import check_folder
from .sharding import shard_on_cpus

# glibc's malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD.
_KEEP_MEMORY = {-4: 0, -1: 2**31 - 1, -2: 64 << 20}


def make_accelerator(args: TrainingArgs, trains: bool = True) -> Accelerator:
    """The accelerator of a recipe, seeded, and on a CPU with all its cores.

    `accelerate launch` sets `OMP_NUM_THREADS=1` when nobody asked otherwise, which would leave all
    cores but one idle in a single-process run. `args.mixed_precision` becomes what holds: the
    launcher's unless given.

    Args:
        args: Of the recipe.
        trains: Whether a run is to begin or to go on in `args.output_dir`.
    """
    check_outlets(args)
    if trains:
        check_folder(args)
    _check_number()
    accelerator = Accelerator(
        # Of processes on a machine without GPUs, Accelerate would let each do all the work.
        cpu="LOCAL_RANK" in os.environ and not torch.accelerator.is_available(),
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        step_scheduler_with_optimizer=False,  # the schedule counts updates, not processes x updates
        log_with=[*args.report_to] or None,
        project_dir=args.output_dir,
        dynamo_plugin=TorchDynamoPlugin(backend=DynamoBackend.INDUCTOR) if args.compile else None,
        kwargs_handlers=[DistributedDataParallelKwargs()],  # see `sharding.prepare`
    )
    args.mixed_precision = accelerator.mixed_precision
    shard_on_cpus(accelerator)
    _check_launch(accelerator, args)
    if accelerator.device.type == "cpu" and accelerator.num_processes == 1:
        threads = os.environ.get("LAWM_NUM_THREADS") or str(os.cpu_count() or 1)
        if not threads.isdecimal() or int(threads) < 1:
            raise ValueError(f"LAWM_NUM_THREADS must be a number of threads, got {threads!r}.")
        torch.set_num_threads(int(threads))
    if accelerator.device.type == "cpu":
        tune_cpu()
    set_seed(args.seed, device_specific=True)
    if accelerator.is_main_process:
        _own(args.output_dir)
    accelerator.wait_for_everyone()
    _check_shared(accelerator, args.output_dir)
    return accelerator


def tune_cpu() -> None:
    """Settings of the process that make a CPU faster and change no more than the rounding.

    At "medium" precision products of matrices go to oneDNN instead of MKL, which is slow on AMD. A
    CPU with bfloat16 units (AMX) would round to that: told by its result, it stays with MKL.

    And glibc keeps the memory that a step has freed: by default buffers of megabytes are mapped,
    filled with zeros page by page and unmapped again at every step. See docs/performance.md.
    """
    torch.set_float32_matmul_precision("medium")
    x = torch.arange(256**2, dtype=torch.float64).mul(0.7).sin().view(256, 256)
    if (x.float() @ x.float() - x @ x).abs().max() > 1e-4:  # 1e-6 or, in bfloat16, 0.06
        torch.set_float32_matmul_precision("highest")
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in _KEEP_MEMORY.items():
            mallopt(option, value)


def _check_shared(accelerator: Accelerator, folder: str) -> None:
    """Refuse a folder that each machine has for itself: checkpoints would be torn."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE") or accelerator.num_processes)
    if here == accelerator.num_processes:
        return
    marker = Path(folder, broadcast_object_list([f".shared_{uuid4().hex}"])[0])
    if accelerator.is_main_process:
        marker.touch()
    accelerator.wait_for_everyone()
    is_seen = any(marker.exists() or time.sleep(0.5) for _ in range(10))  # caches of NFS
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        marker.unlink()
    if not is_seen:
        raise ValueError(
            f"`output_dir` must lie on a file system that all machines share, got {folder!r}, "
            "where this one does not see what the main one writes. Mount it, or choose another."
        )


def _own(folder: str) -> None:
    """Lock the folder of the run, until `unlock_folder`: two runs in one would mix."""
    started = time.monotonic()
    while not owns_folder(folder):
        try:
            lock_folder(folder)
        except BlockingIOError:  # Loader workers of a killed run notice its end within 5 s.
            if time.monotonic() - started > 6:
                raise
            time.sleep(0.5)


def check_outlets(args: TrainingArgs) -> None:
    """What would fail when all the work is done: folder, trackers and Hub repository.

    Raises:
        OSError: If nothing can be written to `output_dir`.
        ValueError: If a tracker is not installed, or the repository's name is none.
    """
    try:
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=args.output_dir):
            pass
    except OSError as error:
        raise OSError(
            f"`output_dir` must be a folder that can be written to, got {args.output_dir!r} "
            f"({error}). Pass another --output_dir."
        ) from error
    installed = [tracker.value for tracker in get_available_trackers()]
    if unknown := sorted({*args.report_to} - {*installed}):
        raise ValueError(
            f"`report_to` must name trackers that are installed, got {unknown[0]!r}. Here are "
            f"{', '.join(installed) or 'none'}; `pip install` it, or leave it out."
        )
    if args.push_to_hub:
        check_repository(args.push_to_hub)


def _check_number() -> None:
    """Refuse a launch that meant several processes and started one.

    Accelerate starts several on CPUs by `torchrun` or `--multi_gpu` only; otherwise it sets an
    address for them to meet, and runs one.
    """
    by_accelerate = "ACCELERATE_DYNAMO_BACKEND" in os.environ and "MASTER_PORT" in os.environ
    several = ("LOCAL_RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
    if by_accelerate and not any(name in os.environ for name in several):
        raise ValueError(
            "The launcher was asked for several processes and has started one. On CPUs, "
            "`--cpu --num_processes 2` does so: give `--multi_gpu --num_processes 2` instead, "
            "without `--cpu`; where there are GPUs too, with ACCELERATE_USE_CPU=true before it."
        )


def _check_launch(accelerator: Accelerator, args: TrainingArgs) -> None:
    """Refuse what launcher and recipe understand differently, or this device cannot do."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise RuntimeError(
            f"The launcher has started {launched} processes, but Accelerate sees "
            f"{accelerator.num_processes}: each would do all the work. Start them by "
            "`accelerate launch --multi_gpu` or torchrun; where there are GPUs that are not to be "
            "used, set ACCELERATE_USE_CPU=true before it."
        )
    asked, held = args.gradient_accumulation_steps, accelerator.gradient_accumulation_steps
    if asked != held:
        raise ValueError(
            f"`gradient_accumulation_steps` must be one number, got {asked} for the recipe and "
            f"{held} for the launcher. Pass --gradient_accumulation_steps {held} after the recipe."
        )
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError(
            "`mixed_precision` fp16 needs an accelerator that scales the loss, got a CPU, where "
            "Accelerate would go on in float32. Pass --mixed_precision bf16 or no."
        )
