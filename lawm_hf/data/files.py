# SPDX-License-Identifier: Apache-2.0
"""The files of a data set: a local folder, or a pinned revision on the Hub."""

from pathlib import Path


class LocalFiles:
    """A folder.

    Args:
        root: The folder.
    """

    is_remote = False

    def __init__(self, root: str | Path):
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise FileNotFoundError(f"No folder {self.root}.")

    def fetch(self, path: str) -> Path:
        """Path of a file that exists."""
        found = self.root / path
        if not found.is_file():
            raise FileNotFoundError(f"No file {path} in {self.root}.")
        return found

    def list(self, folder: str, suffix: str) -> list[str]:
        """Paths below `folder` that end in `suffix`, sorted."""
        found = (self.root / folder).rglob(f"*{suffix}")
        return sorted(p.relative_to(self.root).as_posix() for p in found if p.is_file())
