# SPDX-License-Identifier: Apache-2.0
"""Processes that end with the one that has started them, however that ends."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Asks Linux for SIGKILL when the parent ends, even by SIGKILL; then becomes the command.
_BOUND = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]): os.execv(sys.argv[2], sys.argv[2:])
"""
_groups: set[int] = set()
_is_over = threading.Event()


def run_bound(command: list[str], log: Path, env: dict[str, str], keep: int) -> tuple[int, float]:
    """Run a command in a process group of its own, which `ending_together` ends.

    Args:
        command: Program, with its path, and arguments.
        log: Where its output goes.
        env: Environment variables.
        keep: Descriptor that it inherits, such as that of a lock.

    Returns:
        Its exit status, 0 for success, and the CPU seconds that it took.
    """
    if sys.platform == "linux":
        command = [sys.executable, "-c", _BOUND, str(os.getpid()), *command]
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=env, pass_fds=[keep], start_new_session=True
        )
    _groups.add(process.pid)
    try:
        if _is_over.is_set():
            _kill(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        _kill(process.pid)  # Workers that it has left behind.
    finally:
        _groups.discard(process.pid)
    return status, usage.ru_utime + usage.ru_stime


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """End all groups if the block is left by an error, Ctrl-C, SIGTERM or SIGHUP."""

    def leave(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, leave) for number in numbers if is_main}
    _is_over.clear()
    try:
        yield
    except BaseException:
        _is_over.set()
        for group in [*_groups]:
            _kill(group)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
