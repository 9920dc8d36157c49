# SPDX-License-Identifier: Apache-2.0
"""The files of a dataset: a local folder, or one commit on the Hub behind a bounded cache."""

import os
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath, PurePosixPath

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..writing.text import get_logger
from .bad_clips import POINTER, is_pointer

logger = get_logger(__name__)

_REPO = re.compile(
    r"^(?:hf://(?:datasets/)?)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.\-]+))?"
    r"(?:/(?P<folder>.*))?$"
)
# Of httpx with huggingface-hub 1, of httpx2 with 2: lost connections, and refusals of the Hub.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
_FINAL = (EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError)


class LocalFiles:
    """A folder.

    Args:
        root: The folder.

    Raises:
        FileNotFoundError: If there is none.
    """

    is_remote = False

    def __init__(self, root: str | Path):
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise FileNotFoundError(f"No folder {self.root}.")
        self._found: dict[str, Path] = {}  # where links lead is looked at once

    def fetch(self, path: str) -> Path:
        """Path of a file that exists.

        Raises:
            ValueError: If it lies outside the folder.
        """
        if path not in self._found:
            found = inside(self.root, path)
            if not found.is_file():
                raise FileNotFoundError(f"No file {path} in {self.root}.")
            if is_pointer(found):
                raise ValueError(POINTER.format(path))
            self._found[path] = found
        return self._found[path]

    def list(self, folder: str, suffix: str) -> list[str]:
        """Paths below `folder` that end in `suffix`, sorted; even if they are no files.

        Hidden ones are not of the set: an archiver, a download or a conversion has left them.
        """
        found = (p.relative_to(self.root) for p in files_below(self.root / folder))
        found = (p.as_posix() for p in found if p.name.endswith(suffix) and not is_hidden(p))
        return sorted(found)


class HubFiles(LocalFiles):
    """A dataset repository at one commit; files are downloaded whole when first used.

    Whole files, because a range read per window costs two or three requests each: a file is
    visited for many windows instead. The least recently used files go when the cache is full.

    Args:
        repo: `user/name`.
        folder: Folder within the repository.
        revision: Branch, tag or commit; resolved to a commit now.
        cache_dir: Where downloads live; None for `lawm_hf/data` in the Hugging Face cache.
        cache_bytes: Most that the files of this revision may take.
    """

    is_remote = True

    def __init__(
        self,
        repo: str,
        folder: str = "",
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        cache_bytes: int = 50 << 30,
    ):
        api = huggingface_hub.HfApi()
        info = with_retries(lambda: api.dataset_info(repo, revision=revision))
        assert info.sha is not None, "the Hub states a commit for every revision"
        self.repo, self.folder, self.commit = repo, folder.strip("/"), info.sha
        if revision != info.sha:
            logger.warning("%s is read at commit %s; pin it in the spec.", repo, info.sha)
        cache = Path(constants.HF_HOME, "lawm_hf/data") if cache_dir is None else Path(cache_dir)
        self.download_dir = cache / repo.replace("/", "--") / info.sha
        self.download_dir.mkdir(parents=True, exist_ok=True)
        self.root = self.download_dir / self.folder
        self.cache_bytes = cache_bytes
        self._unchecked = cache_bytes  # bytes downloaded since the cache's size was last looked at

    def fetch(self, path: str) -> Path:
        """Local path of a file, downloaded if need be."""
        found = inside(self.download_dir, f"{self.folder}/{path}" if self.folder else path)
        try:
            os.utime(found)  # the time of last use
            return found
        except FileNotFoundError:
            pass
        name = f"{self.folder}/{path}" if self.folder else path
        try:
            with_retries(
                lambda: huggingface_hub.hf_hub_download(
                    self.repo,
                    name,
                    repo_type="dataset",
                    revision=self.commit,
                    local_dir=self.download_dir,
                )
            )
        except RemoteEntryNotFoundError as error:
            raise FileNotFoundError(f"No file {name} in {self.repo} at {self.commit}.") from error
        self._unchecked += found.stat().st_size
        if self._unchecked > self.cache_bytes // 16:
            self._evict(keep=found)
        return found

    def list(self, folder: str, suffix: str) -> list[str]:
        """See `LocalFiles.list`."""
        api = huggingface_hub.HfApi()
        prefix = f"{self.folder}/" if self.folder else ""
        tree = with_retries(
            lambda: list(
                api.list_repo_tree(
                    self.repo,
                    (prefix + folder).strip("/") or None,
                    recursive=True,
                    revision=self.commit,
                    repo_type="dataset",
                )
            )
        )
        names = [entry.path.removeprefix(prefix) for entry in tree]
        return sorted(n for n in names if n.endswith(suffix) and not is_hidden(PurePosixPath(n)))

    def _evict(self, keep: Path) -> None:
        """Delete what was used least recently; a reader that has the file open keeps it."""
        found = []
        for path in self.download_dir.rglob("*"):
            # Metadata of downloads and of the set are small, and needed again and again.
            if path.is_file() and not {".cache", "meta"} & set(path.parts):
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.cache_bytes:
                break
            if path != keep:
                path.unlink(missing_ok=True)
                total -= size
        self._unchecked = 0


def files_below(root: Path) -> Iterator[Path]:
    """Whatever is no folder; links to folders are named and not followed."""
    for folder, names, files in os.walk(root):
        warn_of_links(folder, names)
        yield from (Path(folder, file) for file in files)


def is_hidden(path: PurePath) -> bool:
    """Whether the name of the file, or of a folder above it, begins with a dot."""
    return any(part.startswith(".") for part in path.parts)


def warn_of_links(folder: str, names: Iterable[str]) -> None:
    """Name the links among these folders: they could lead in a circle or out, so none is followed.

    Args:
        folder: Where they are.
        names: Their names.
    """
    for link in filter(Path.is_symlink, (Path(folder, name) for name in names)):
        told = "%s is a link to a folder, which is not followed: %s is a source of its own."
        logger.warning(told, link, link.resolve())


def inside(root: Path, path: str) -> Path:
    """The path of a file below `root`, wherever links lead; in a cache of the Hub also its blobs.

    Raises:
        ValueError: If it lies elsewhere: a dataset names only its own files.
    """
    found, folder = root / path, root.resolve()
    homes = [folder]
    if "snapshots" in folder.parts:  # …/datasets--user--name/snapshots/COMMIT links to …/blobs
        repo = Path(*folder.parts[: len(folder.parts) - folder.parts[::-1].index("snapshots") - 1])
        homes += [repo / "blobs"] if (repo / "blobs").is_dir() else []
    safe = not Path(path).is_absolute() and ".." not in Path(path).parts and "\0" not in path
    try:
        goal = found.resolve() if safe else None
    except (RuntimeError, OSError):  # links that lead in a circle
        goal = None
    if goal is None or not any(goal.is_relative_to(home) for home in homes):
        raise ValueError(
            f"A dataset may name only files in its own folder, got {path!r}, which leaves {root}. "
            "If you trust it, put the files themselves into the folder."
        )
    return found


def open_files(location: str, revision: str | None = None) -> LocalFiles:
    """A local folder if there is one, else a repository `[hf://datasets/]user/name[@rev][/folder]`.

    Raises:
        FileNotFoundError: If it is neither, saying what was tried.
    """
    is_url = location.startswith("hf://")
    if not is_url and Path(location).expanduser().is_dir():
        return LocalFiles(location)
    match = _REPO.match(location)
    if match is None or (not is_url and location.startswith((".", "/", "~"))):
        raise FileNotFoundError(
            f"No folder {location}, which is not the name of a Hub repository either."
        )
    revision = revision or match["revision"]
    try:
        return HubFiles(match["repo"], match["folder"] or "", revision)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise FileNotFoundError(
            f"No folder {location}, and no dataset {match['repo']} at revision "
            f"{revision or 'main'} that you may read on the Hub."
        ) from error


def with_retries[T](call: Callable[[], T], attempts: int = 6, first_wait_s: float = 1.0) -> T:
    """Call again after an error of the network or the server, waiting twice as long each time.

    What another try cannot fix (no such file, no access) is raised at once.
    """
    for attempt in range(attempts):
        try:
            return call()
        except (OSError, _HTTP_ERROR) as error:
            # A download without a connection says "not in the local cache": that is not final.
            final = isinstance(error, _FINAL) and not isinstance(error, LocalEntryNotFoundError)
            status = getattr(getattr(error, "response", None), "status_code", None)
            refused = status in range(400, 500) and status not in (408, 429)
            if final or refused or attempt == attempts - 1:
                raise
            wait = first_wait_s * 2**attempt * random.uniform(0.75, 1.25)
            logger.warning("Try %d failed, next in %.1f s: %s", attempt + 1, wait, error)
            time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")
