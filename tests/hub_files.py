# SPDX-License-Identifier: Apache-2.0
"""Uploads, commits and downloads, as the stand-in of the Hub has them: plain and Git LFS."""

import base64
import hashlib
import json
import re
import threading
from pathlib import Path
from typing import Any

from hub_answers import Answers
from hub_state import LARGE, Refusal, resolve

PART = 1 << 20  # a larger file is sent in parts of this many bytes


class Files(Answers):
    """What is in repositories, and how it comes and goes."""

    def validate_yaml(self) -> None:
        front = re.match(r"---\n(.*?)\n---", self.json()["content"], re.DOTALL)
        warning = [] if front else [{"message": "empty or missing yaml metadata in repo card"}]
        self.answer({"errors": [], "warnings": warning})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name, write=True)
        old = repo["commits"][resolve(repo, revision)]["files"]
        self.answer({"files": [plan(file, old.get(file["path"])) for file in self.json()["files"]]})

    def lfs_batch(self, prefix: str, name: str) -> None:
        self.repo(prefix.strip("/") or "models", name, write=True)
        objects = []
        for item in self.json()["objects"]:
            sha, size = item["oid"], item["size"]
            if self.hub.blob(sha).exists():  # already here: nothing to do
                objects.append(item)
                continue
            url = f"{self.origin()}/lfs/{sha}"
            upload: dict[str, Any] = {"href": url}
            if size > PART:
                parts = {str(i + 1): f"{url}/{i + 1}" for i in range(-(-size // PART))}
                upload = {"href": f"{url}/complete", "header": {"chunk_size": str(PART)} | parts}
            actions = {"upload": upload, "verify": {"href": f"{url}/verify"}}
            objects.append(item | {"authenticated": True, "actions": actions})
        self.answer({"transfer": "basic", "objects": objects})

    def put(self, sha: str, part: str = "") -> None:
        """Signed addresses in the real one: whoever knows them may write this content alone."""
        partial = self.hub.blob(f"{sha}.{threading.get_ident()}")
        digest = hashlib.sha256()
        with partial.open("wb") as file:
            for piece in self.body():
                digest.update(piece)
                file.write(piece)
        if not part and digest.hexdigest() != sha:
            partial.unlink()
            raise Refusal(400, "The provided sha256 does not match what was sent")
        partial.replace(self.hub.blob(f"{sha}.{part}" if part else sha))
        self.answer(b"", headers={"ETag": f'"{digest.hexdigest()}"'})

    def complete(self, sha: str) -> None:
        parts = [self.hub.blob(f"{sha}.{p['partNumber']}") for p in self.json()["parts"]]
        data = b"".join(part.read_bytes() for part in parts)
        for part in parts:
            part.unlink()
        if hashlib.sha256(data).hexdigest() != sha:
            raise Refusal(400, "The provided sha256 does not match what was sent")
        self.hub.blob(sha).write_bytes(data)
        self.answer({})

    def verify(self, sha: str) -> None:
        asked = self.json()
        file = self.hub.blob(sha)
        if not file.exists() or file.stat().st_size != asked["size"]:
            raise Refusal(404, "The object is not here in this size")
        self.answer({})

    def commit(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name, write=True)
        lines = [json.loads(line) for line in b"".join(self.body()).splitlines()]
        header = lines[0]["value"]
        with self.hub.lock:
            parent, asked = resolve(repo, revision), header.get("parentCommit")
            is_pr = "create_pr" in self.query
            if asked and not is_pr and not parent.startswith(asked):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            files = dict(repo["commits"][parent]["files"])
            for line in lines[1:]:
                self._apply(files, line["key"], line["value"])
            ref = next((r for r in (revision, f"refs/heads/{revision}") if r in repo["refs"]), "")
            number = 1 + sum(r.startswith("refs/pr/") for r in repo["refs"])
            if is_pr:
                ref = f"refs/pr/{number}"
                repo["refs"][ref] = parent
            if not ref:
                raise Refusal(404, f"Not a branch: {revision}", "RevisionNotFound")
            oid = self.hub.commit(repo, ref, header["summary"], files)
            self.hub.save()
        url = f"{self.origin()}/{'' if kind == 'models' else kind + '/'}{name}"
        pull = f"{url}/discussions/{number}" if is_pr else None
        done = {"success": True, "commitOid": oid, "commitUrl": f"{url}/commit/{oid}"}
        self.answer(done | {"pullRequestUrl": pull, "hookOutput": ""})

    def _apply(self, files: dict[str, Any], key: str, value: dict[str, Any]) -> None:
        path = value["path"]
        if key == "file":
            files[path] = self.hub.regular(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            sha, xet = value["oid"], self.hub.xet.files.get(value["oid"])
            if not self.hub.blob(sha).exists() and not xet:
                message = "Your push was rejected because an LFS pointer pointed to a file that "
                raise Refusal(400, f"{message}does not exist: {path}")
            size = self.hub.xet.size(xet) if xet else self.hub.blob(sha).stat().st_size
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize {size}\n"
            files[path] = self.hub.regular(pointer.encode()) | {
                "size": size,
                "lfs": sha,
                "xet": xet,
            }
        else:
            gone = [p for p in files if p == path or p.startswith(f"{path.rstrip('/')}/")]
            for old in gone:
                del files[old]

    def download(self, prefix: str, name: str, revision: str, path: str) -> None:
        kind = prefix.strip("/") or "models"
        repo = self.repo(kind, name)
        if repo["gated"] and self.user()[0] != name.split("/")[0]:
            message = f"Access to {kind[:-1]} {name} is restricted. You must have access to it."
            raise Refusal(403 if self.user()[0] else 401, message, "GatedRepo")
        oid = resolve(repo, revision)
        file = repo["commits"][oid]["files"].get(path)
        if file is None:
            raise Refusal(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": oid})
        facts = {"X-Repo-Commit": oid, "ETag": f'"{file["oid"]}"', "Accept-Ranges": "bytes"}
        if not file.get("lfs"):
            return self._send(self.hub.blob(file["oid"]), facts)
        facts |= {"X-Linked-Size": file["size"], "X-Linked-ETag": f'"{file["lfs"]}"'}
        if file["xet"]:
            token = f"{self.origin()}/api/{kind}/{name}/xet-read-token/{oid}"
            facts |= {"X-Xet-Hash": file["xet"], "Link": f'<{token}>; rel="xet-auth"'}
        # Another host, as the real one's: no token may follow there.
        facts["Location"] = f"{self.origin('localhost')}/cdn/{file['lfs']}"
        return self.answer(b"", 302, facts)

    def cdn(self, sha: str) -> None:
        if "Authorization" in self.headers:
            raise Refusal(400, "A token must not leave the Hub")
        file = self.hub.blob(sha)
        if not file.exists():  # it came by Xet, and is asked for without it
            file.write_bytes(self.hub.xet.read(self.hub.xet.files[sha]))
        self._send(file, {"ETag": f'"{sha}"', "Accept-Ranges": "bytes"})

    def _send(self, path: Path, headers: dict[str, Any]) -> None:
        data = path.read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not found:
            return self.answer(data, 200, headers)
        first, last = int(found[1]), min(int(found[2] or len(data)), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        if first > last:
            return self.answer(b"", 416, headers | {"Content-Range": f"bytes */{len(data)}"})
        return self.answer(data[first : last + 1], 206, headers)


def plan(file: dict[str, Any], old: dict[str, Any] | None) -> dict[str, Any]:
    """How a file is to come, and what lies there under its name."""
    is_large = file["path"].endswith(LARGE) or file["size"] > 10 << 20
    old_oid = old and (old.get("lfs") or old["oid"])
    how = {"uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}
    return {"path": file["path"], "oid": old_oid} | how
