# SPDX-License-Identifier: Apache-2.0
"""What the stand-in of the Hub (`hub_server.py`) keeps: repositories, files, collections."""

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

from hub_xet import XetStorage

DATE = "2026-01-01T00:00:00.000Z"
LARGE = (".safetensors", ".png", ".mp4", ".parquet", ".tar", ".onnx", ".bin", ".gif")


class Refusal(Exception):  # noqa: N818
    """An answer other than 2xx."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str):
        super().__init__(message)
        self.status, self.headers = status, headers | {"X-Error-Message": message}
        if code:
            self.headers["X-Error-Code"] = code


class Hub:
    """All that a restart must not lose: `state.json`, replaced as a whole, and `blobs/`."""

    def __init__(self, folder: Path):
        self.folder, self.lock = folder, threading.RLock()
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        self.repos: dict[str, Any] = {}
        self.collections: dict[str, Any] = {}
        if (folder / "state.json").exists():
            self.repos, self.collections = json.loads((folder / "state.json").read_text())
        self.xet = XetStorage(folder / "xet")
        self.requests: list[list[Any]] = []
        self.faults: list[dict[str, Any]] = []

    def save(self) -> None:
        partial = self.folder / "state.partial"
        partial.write_text(json.dumps([self.repos, self.collections]))
        partial.replace(self.folder / "state.json")

    def blob(self, name: str) -> Path:
        return self.folder / "blobs" / name

    def commit(self, repo: dict[str, Any], ref: str, title: str, files: dict[str, Any]) -> str:
        """A commit on top of a reference, which then names it."""
        parent = repo["refs"].get(ref)
        content = json.dumps([parent, title, files, len(repo["commits"])])
        oid = hashlib.sha1(content.encode()).hexdigest()
        repo["commits"][oid] = {"parent": parent, "title": title, "files": files}
        repo["refs"][ref] = oid
        return oid

    def regular(self, data: bytes) -> dict[str, Any]:
        """A file that is kept in git itself."""
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        self.blob(oid).write_bytes(data)
        return {"oid": oid, "size": len(data)}


def resolve(repo: dict[str, Any], revision: str) -> str:
    """The commit that a branch, tag, `refs/...` or (shortened) commit names."""
    for ref in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
        if ref in repo["refs"]:
            return repo["refs"][ref]
    found = [oid for oid in repo["commits"] if len(revision) > 6 and oid.startswith(revision)]
    if not found:
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return found[0]


def entry(path: str, file: dict[str, Any]) -> dict[str, Any]:
    """A file, as a listing shows it."""
    row = {"type": "file", "path": path, "oid": file["oid"], "size": file["size"]}
    if file.get("lfs"):
        row["lfs"] = {"oid": file["lfs"], "size": file["size"], "pointerSize": 134}
        row |= {"xetHash": file["xet"]} if file["xet"] else {}
    return row
