# SPDX-License-Identifier: Apache-2.0
"""One rule for clips that cannot be used, wherever clips are read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from ..writing.text import get_logger

logger = get_logger(__name__)


_POINTER_BYTES, _POINTER_BEGIN = 1024, b"version https://git-lfs"
POINTER = (
    "{} is not here, only a note of Git LFS about it: `git lfs pull`, or `hf download` the set"
)


class BadClipError(Exception):
    """A clip that cannot be used. It is skipped, counted and named; never replaced by zeros."""


def regular(path: Path) -> Path:
    """The path of a file that has an end: one would wait for ever for what a pipe may bring.

    Raises:
        BadClipError: If there is no such file.
    """
    if not path.is_file():
        raise BadClipError(f"no file {path.name}")
    if is_pointer(path):
        raise BadClipError(POINTER.format(path.name))
    return path


def is_pointer(path: Path) -> bool:
    """Whether Git LFS has left a note in the place of the file: a clone without `git lfs`."""
    if path.stat().st_size > _POINTER_BYTES:
        return False
    with path.open("rb") as file:
        return file.read(len(_POINTER_BEGIN)) == _POINTER_BEGIN


def too_many_bad(bad: int, seen: int, share: float = 0.05) -> bool:
    """Whether `bad` of `seen` clips is more than `share` of all, beyond what chance explains.

    The lower end of the one-sided 99.9 % interval of Clopper and Pearson lies above `share`: were
    that the true share, so many among so few would be met once in a thousand times.
    """
    from scipy.special import bdtrc  # slow to import, and seldom needed

    return bad > 0 and bool(bdtrc(bad - 1, seen, share) < 1e-3)


class NamedClips(Protocol):
    """What of a `Source` is needed here."""

    name: str

    def clip_name(self, clip: int) -> str:
        """What a log message calls the clip."""
        ...


class BadClips:
    """Skips the bad clips of a source, names them once, and raises when they are too many.

    Args:
        source: Whose clips are read.
        max_share: Largest share that is accepted; see `too_many_bad`.
    """

    def __init__(self, source: NamedClips, max_share: float = 0.05):
        self.source, self.max_share = source, max_share
        self.seen: set[int] = set()
        self.bad: dict[int, str] = {}

    @contextmanager
    def skipped(self, clip: int) -> Iterator[None]:
        """Read a clip in here; what that raises is noted.

        Raises:
            RuntimeError: If too many were bad.
        """
        self.seen.add(clip)
        try:
            yield
        except Exception as error:
            name = self.source.clip_name(clip)
            if clip not in self.bad:
                logger.warning("Skipped %s of %s: %s", name, self.source.name, error)
            self.bad[clip] = f"{name}: {error}"
            if too_many_bad(len(self.bad), len(self.seen), self.max_share):
                raise self.too_many() from error

    def too_many(self) -> RuntimeError:
        """The error that says so."""
        return RuntimeError(
            f"{len(self.bad)} of {len(self.seen)} clips of {self.source.name} are bad"
            + (f", more than `max_bad_share` {self.max_share} allows" if self.max_share < 1 else "")
            + f". The last one, {list(self.bad.values())[-1]} "
            "(Mend those that are named, or leave them out by `,episodes=` or `,manifest=`.)"
        )
