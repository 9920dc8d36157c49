# SPDX-License-Identifier: Apache-2.0
"""State files that a full disk or a kill leaves whole, one owner per folder, errors with a name."""

import contextlib
import json
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path

_LOCK = ".lock"
_held: dict[Path, tuple[int, int]] = {}  # Folder -> process that has locked it, descriptor.


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
    """Bring the names in a folder to the disk: a rename outlives a power cut only then."""
    with contextlib.suppress(OSError):  # Some file systems have no such thing.
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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
def run_lock(folder: str | Path) -> Iterator[None]:
    """Own a folder while the block runs; see `lock_folder`."""
    lock_folder(folder)
    try:
        yield
    finally:
        unlock_folder(folder)


def lock_folder(folder: str | Path) -> None:
    """Own a folder until `unlock_folder` or the end of the process, however it ends.

    Raises:
        BlockingIOError: If somebody, this process maybe, owns it; names the process.
    """
    import fcntl  # Only here: Windows has none.

    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 200).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise BlockingIOError(
            f"{folder} must have one writer at a time, got a second: process {owner} is at work "
            "there. Wait for its end, or stop it with `kill`, or choose another folder."
        ) from None
    except OSError as error:  # A network file system without locks.
        warnings.warn(f"{folder} cannot be locked ({error}): start one run in it.", stacklevel=2)
    _held[folder] = os.getpid(), descriptor
    with contextlib.suppress(OSError):  # A full disk: the lock holds without a name.
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()} on {socket.gethostname()}\n".encode())


def unlock_folder(folder: str | Path) -> None:
    """Give a folder back; nothing happens if this process does not own it."""
    folder = Path(folder).resolve()
    if owns_folder(folder):
        os.close(_held.pop(folder)[1])


def owns_folder(folder: str | Path) -> bool:
    """Whether this process has locked the folder."""
    return _held.get(Path(folder).resolve(), (None,))[0] == os.getpid()
