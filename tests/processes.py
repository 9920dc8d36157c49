"""Processes that train together on this machine's CPUs, as a launcher starts them."""

import gc
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils.launch import prepare_multi_gpu_env

FSDP = Path(__file__).parent.parent / "recipes" / "accelerate" / "fsdp.yaml"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launcher_environment(*flags: str) -> dict[str, str]:
    """What `accelerate launch` with these flags sets in the environment of each process."""
    args = launch_command_parser().parse_args([*flags, "recipe.py"])
    args, *_ = _validate_launch_command(args)
    set_by_it = prepare_multi_gpu_env(args)
    return {k: v for k, v in set_by_it.items() if os.environ.get(k) != v}


def fork(function: Callable[[], Any], log: Path, environment: dict[str, str]) -> int:
    """Call a function in a process of its own, in a group of its own; its id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    gc.freeze()  # freeing what another test left may wait for threads that are not here
    code = 1
    try:
        sys.stdout = sys.stderr = log.open("w")  # pytest's would not let go of them
        for stream in (1, 2):
            os.dup2(sys.stdout.fileno(), stream)
        os.environ.update(environment)
        for state in (AcceleratorState, PartialState, GradientState):
            state._reset_state()
        function()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def start(
    function: Callable[[], Any], number: int, folder: Path, flags: tuple[str, ...] = ()
) -> list[int]:
    """Call a function in this many processes that know each other; their ids.

    Args:
        function: What they do.
        number: How many; one is not told of any others.
        folder: Where what they print goes.
        flags: Of `accelerate launch`, besides their number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if number == 1:
        return [fork(function, folder / "log_0.txt", {})]
    shared = launcher_environment(*flags, "--num_processes", str(number), "--num_machines", "1")
    shared |= {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number)]
    return [fork(function, folder / f"log_{r['RANK']}.txt", shared | r) for r in ranks]


def finish(pids: list[int], folder: Path) -> None:
    """Wait for them; if one fails, end the others and show what it said."""
    left = dict(enumerate(pids))
    failed = None
    while left:
        for rank, pid in [*left.items()]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del left[rank]
                if status and failed is None:
                    failed = rank
                    kill([*left.values()])
        time.sleep(0.02)
    if failed is not None:
        text = (folder / f"log_{failed}.txt").read_text()[-4000:]
        raise AssertionError(f"process {failed} of {len(pids)} failed:\n{text}")


def kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def run(
    function: Callable[[], Any], number: int, folder: Path, flags: tuple[str, ...] = ()
) -> None:
    """Call a function in this many processes that know each other, to its end; see `start`."""
    finish(start(function, number, folder, flags), folder)


def log_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
