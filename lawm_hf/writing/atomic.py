# SPDX-License-Identifier: Apache-2.0
"""State files that a full disk or a kill leaves whole, one owner per folder, errors with a name."""

import contextlib
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

_LOCK = ".lock"
_held: dict[Path, tuple[int, int]] = {}  # Lock -> process that has it, descriptor.


def write_text_atomic(path: str | Path, text: str) -> None:
    """As `Path.write_text`, but whatever happens the file holds the old text or the new."""
    write_bytes_atomic(path, text.encode())


def write_bytes_atomic(path: str | Path, content: bytes) -> None:
    """As `Path.write_bytes`: written beside it, brought to the disk, renamed."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: str | Path) -> None:
    """Flush a folder's entries to the disk: only then does a rename survive a power cut."""
    with contextlib.suppress(OSError):  # Some file systems have no such thing.
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def set_aside(path: Path) -> None:
    """Keep a file under another name, `README.1.md` and so on, so that a new one may be written."""
    names = (path.with_name(f"{path.stem}.{i}{path.suffix}") for i in count(1))
    path.rename(next(name for name in names if not name.exists()))


def is_hub_copy(folder: str | Path) -> bool:
    """Whether a folder is a commit in huggingface_hub's cache: nothing may be written there."""
    pairs = pairwise(Path(folder).resolve().parts)
    return any(a.startswith("models--") and b == "snapshots" for a, b in pairs)


def check_writable(folder: str | Path) -> None:
    """Find out before the work that its result could not be written.

    Raises:
        ValueError: If the folder is none of the user's.
        OSError: If nothing can be written into it, with its name.
    """
    if is_hub_copy(folder):
        raise ValueError(
            f"{folder} must be a folder of yours, got the Hub's cache, which holds what was "
            "downloaded and nothing else. Copy it, links followed: cp -rL FOLDER MINE."
        )
    try:
        write_bytes_atomic(Path(folder, "writable"), b"")
        Path(folder, "writable").unlink()
    except OSError as error:
        raise type(error)(
            f"{folder} must be a folder that can be written, got {error.strerror!r}. Copy it to "
            "where you may write, or make room."
        ) from error


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON mappings of a log, without lines that a kill has cut off or a full disk damaged."""
    lines: list[dict[str, Any]] = []
    for line in path.read_text("utf-8", "replace").splitlines() if path.exists() else ():
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(content, dict):
            lines.append(content)
    return lines


def read_json[T](path: str | Path, kind: type[T] = object) -> T:
    """Content of a JSON file.

    Args:
        path: The file.
        kind: What it must hold, such as `dict`.

    Raises:
        ValueError: If it is damaged, with its name and what to do.
    """
    content = Path(path).read_bytes()
    try:
        value = json.loads(content)
        if isinstance(value, kind):
            return value
        found = f"a {type(value).__name__}"
    except (ValueError, RecursionError) as error:
        found = f"{len(content)} bytes that are none ({error})"
    raise ValueError(
        f"{path} must hold JSON, a {kind.__name__}, got {found}. A full disk or a kill may have "
        "damaged it: bring back a copy, or delete it and repeat what writes it."
    )


@contextlib.contextmanager
def run_lock(folder: str | Path, name: str = _LOCK, patience_s: float = 0.0) -> Iterator[int]:
    """Own a folder while the block runs; see `lock_folder`."""
    descriptor = lock_folder(folder, name, patience_s)
    try:
        yield descriptor
    finally:
        unlock_folder(folder, name)


def lock_folder(folder: str | Path, name: str = _LOCK, patience_s: float = 0.0) -> int:
    """Own a folder until `unlock_folder` or the end of the process, however it ends.

    Args:
        folder: Made if it is not there.
        name: File of the lock: owners of different ones do not mind each other.
        patience_s: Seconds to wait for another owner: children of a killed one end a little later.

    Returns:
        The lock's descriptor; a process that inherits it keeps the lock alive.

    Raises:
        BlockingIOError: If some process, perhaps this one, owns it; names the process.
    """
    import fcntl  # Only here: Windows has none.

    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if patience_s > 0:
            os.close(descriptor)
            time.sleep(0.5)
            return lock_folder(folder, name, patience_s - 0.5)
        owner = os.read(descriptor, 200).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise BlockingIOError(
            f"{folder} must have one writer at a time, got a second: process {owner} is at work "
            "there. Wait for its end, or stop it with `kill`, or choose another folder."
        ) from None
    except OSError as error:  # A network file system without locks.
        warnings.warn(f"{folder} cannot be locked ({error}): start one run in it.", stacklevel=2)
    _held[folder / name] = os.getpid(), descriptor
    with contextlib.suppress(OSError):  # A full disk: the lock holds without a name.
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()} on {socket.gethostname()}\n".encode())
    return descriptor


def unlock_folder(folder: str | Path, name: str = _LOCK) -> None:
    """Give a folder back; nothing happens if this process does not own it."""
    if owns_folder(folder, name):
        os.close(_held.pop(Path(folder).resolve() / name)[1])


def owns_folder(folder: str | Path, name: str = _LOCK) -> bool:
    """Whether this process has locked the folder."""
    return _held.get(Path(folder).resolve() / name, (None,))[0] == os.getpid()
