# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the Hub: a process on this machine that speaks its HTTP API to huggingface_hub.

`python tests/hub_server.py FOLDER PORT` keeps repositories, commits and files in FOLDER, so that it
can be killed and started again. Tokens: `hf_me` and `hf_you` may write in their own namespace,
`hf_read` reads what is `me`'s. `/_test/...` is for tests: what was asked, and faults to come. What
Xet storage adds is in `hub_xet.py`; a repository whose owner has it off is plain Git LFS.
"""

import base64
import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_xet import XetStorage

USERS = {"hf_me": ("me", "write"), "hf_you": ("you", "write"), "hf_read": ("me", "read")}
LARGE = (".safetensors", ".png", ".mp4", ".parquet", ".tar", ".onnx", ".bin", ".gif")
PART = 1 << 20  # a larger file is sent in parts of this many bytes
DATE = "2026-01-01T00:00:00.000Z"


class Problem(Exception):
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


def resolve(repo: dict[str, Any], revision: str) -> str:
    """The commit that a branch, tag, `refs/...` or (shortened) commit names."""
    for ref in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
        if ref in repo["refs"]:
            return repo["refs"][ref]
    found = [oid for oid in repo["commits"] if len(revision) > 6 and oid.startswith(revision)]
    if not found:
        raise Problem(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return found[0]


class Handler(BaseHTTPRequestHandler):
    """The endpoints, each a method below; `ROUTES` says which."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        self.url = urlsplit(self.path)
        self.query = {k: v[0] for k, v in parse_qs(self.url.query).items()}
        try:
            if not self.url.path.startswith("/_test/"):
                self.hub.requests.append([self.command, self.path, dict(self.headers)])
                self._fault()
            for method, pattern, answer in ROUTES:
                found = re.fullmatch(pattern, self.url.path)
                if found and self.command in method.split():
                    answer(self, *map(unquote, found.groups("")))
                    return
            raise Problem(404, f"no such endpoint: {self.command} {self.path}")
        except Problem as problem:
            self._rest()
            self.answer({"error": str(problem)}, problem.status, problem.headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _fault(self) -> None:
        """A fault that a test has asked for: `{match, times, status, headers}` or `{die: bytes}`."""
        with self.hub.lock:
            line = f"{self.command} {self.path}"
            fault = next((f for f in self.hub.faults if re.search(f["match"], line)), None)
            if fault is None:
                return
            fault["times"] -= 1
            if not fault["times"]:
                self.hub.faults.remove(fault)
        if "die" in fault:
            self.rfile.read(min(fault["die"], int(self.headers.get("Content-Length", 0))))
            os._exit(1)
        if "stale" in fault:  # an older commit than the newest, as if somebody pushed in between
            with self.hub.lock:
                repo = self.hub.repos[fault["stale"]]
                ref = fault.get("ref", "refs/heads/main")
                files = repo["commits"][repo["refs"][ref]]["files"]
                self.hub.commit(repo, ref, "by somebody else", files)
            return
        raise Problem(fault["status"], "a fault", "", **fault.get("headers", {}))

    def body(self) -> Iterator[bytes]:
        """Of the request, in pieces; as long as it says, or chunked."""
        self.was_read = True
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length", 0))
        while left > 0 and (piece := self.rfile.read(min(left, 1 << 16))):
            left -= len(piece)
            yield piece

    def json(self) -> Any:
        return json.loads(b"".join(self.body()) or b"{}")

    def _rest(self) -> None:
        """Read what was not: the connection goes on."""
        if not getattr(self, "was_read", False):
            for _ in self.body():
                pass

    def answer(self, value: Any = None, status: int = 200, headers: Any = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": len(data)} | (
            headers or {}
        )
        for name, text in headers.items():
            self.send_header(name, str(text))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self.was_read = False

    # ------------------------------------------------------------------------ who may what

    def user(self, *, must: bool = False) -> tuple[str, str]:
        """Name and role of who asks; empty for nobody."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in USERS:
            raise Problem(401, "Invalid credentials in Authorization header")
        if must and not token:
            raise Problem(401, "Invalid username or password.")
        return USERS.get(token, ("", ""))

    def repo(self, kind: str, name: str, *, write: bool = False) -> dict[str, Any]:
        """A repository that the user may see, or write to."""
        user, role = self.user()
        found = self.hub.repos.get(f"{kind}/{name}")
        owner = name.split("/")[0]
        if found is None or (found["private"] and user != owner):
            if not user:  # the Hub tells strangers nothing
                raise Problem(401, "Invalid username or password.", "RepoNotFound")
            raise Problem(404, "Repository not found", "RepoNotFound")
        if write and not user:
            raise Problem(401, "Invalid username or password.")
        if write and (user != owner or role != "write") and "create_pr" not in self.query:
            raise Problem(403, "You don't have the rights to write to this repository")
        return found

    def whoami(self) -> None:
        user, role = self.user(must=True)
        access = {"displayName": "test", "role": role}
        self.answer({"type": "user", "name": user, "orgs": [], "auth": {"accessToken": access}})

    # ------------------------------------------------------------------------ repositories

    def create_repo(self) -> None:
        asked = self.json()
        user, role = self.user(must=True)
        owner, kind = asked.get("organization") or user, f"{asked.get('type') or 'model'}s"
        if owner != user or role != "write":
            message = f'You don\'t have the rights to create a {kind[:-1]} under "{owner}"'
            raise Problem(403, message)
        name = f"{owner}/{asked['name']}"
        prefix = "" if kind == "models" else f"{kind}/"
        url = f"{self.origin()}/{prefix}{name}"
        with self.hub.lock:
            if f"{kind}/{name}" in self.hub.repos:
                message = f"You already created this {kind[:-1]} repo"
                return self.answer(
                    {"error": message, "url": url}, 409, {"X-Error-Message": message}
                )
            private = asked.get("private") or asked.get("visibility") == "private"
            repo = {"id": name, "private": bool(private), "gated": False, "refs": {}, "commits": {}}
            attributes = "".join(f"*{end} filter=lfs diff=lfs merge=lfs -text\n" for end in LARGE)
            files = {".gitattributes": self.regular(attributes.encode())}
            self.hub.commit(repo, "refs/heads/main", "initial commit", files)
            self.hub.repos[f"{kind}/{name}"] = repo
            self.hub.save()
        return self.answer({"url": url, "name": name, "id": name})

    def origin(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server.server_address[1]}"

    def regular(self, data: bytes) -> dict[str, Any]:
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        self.hub.blob(oid).write_bytes(data)
        return {"oid": oid, "size": len(data)}

    def info(self, kind: str, name: str, revision: str = "") -> None:
        repo = self.repo(kind, name)
        oid = resolve(repo, revision or "main")
        siblings = [{"rfilename": path} for path in repo["commits"][oid]["files"]]
        facts = {"id": name, "sha": oid, "private": repo["private"], "gated": repo["gated"]}
        facts |= {"modelId": name, "lastModified": DATE, "createdAt": DATE, "disabled": False}
        self.answer(facts | {"siblings": siblings, "tags": [], "downloads": 0, "likes": 0})

    def tree(self, kind: str, name: str, revision: str, folder: str = "") -> None:
        repo = self.repo(kind, name)
        files = repo["commits"][resolve(repo, revision)]["files"]
        inside = {p: f for p, f in files.items() if not folder or p.startswith(f"{folder}/")}
        if folder and not inside:
            raise Problem(404, f"{folder} does not exist", "EntryNotFound")
        rows, folders = [], set()
        for path, file in inside.items():
            parts = path.removeprefix(f"{folder}/" if folder else "").split("/")[:-1]
            above = [
                "/".join([*filter(None, [folder]), *parts[: i + 1]]) for i in range(len(parts))
            ]
            folders |= {*(above if self.query.get("recursive") == "true" else above[:1])}
            if self.query.get("recursive") == "true" or not parts:
                rows.append(entry(path, file))
        rows += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": f} for f in folders]
        self.answer(sorted(rows, key=lambda row: row["path"]))

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name)
        asked = parse_qs(b"".join(self.body()).decode())
        files = repo["commits"][resolve(repo, revision)]["files"]
        self.answer([entry(path, files[path]) for path in asked["paths"] if path in files])

    def refs(self, kind: str, name: str) -> None:
        repo = self.repo(kind, name)
        found: dict[str, Any] = {"heads": [], "tags": [], "pr": []}
        for ref, oid in repo["refs"].items():
            _, group, short = ref.split("/", 2)
            found[group].append({"name": short, "ref": ref, "targetCommit": oid})
        answer = {"branches": found["heads"], "tags": found["tags"], "converts": []}
        self.answer(answer | {"pullRequests": found["pr"]})

    def new_ref(self, kind: str, name: str, what: str, given: str) -> None:
        repo, asked = self.repo(kind, name, write=True), self.json()
        ref, target = f"refs/heads/{given}", asked.get("startingPoint") or "main"
        if what == "tag":
            ref, target = f"refs/tags/{asked['tag']}", given
        with self.hub.lock:
            if ref in repo["refs"]:
                raise Problem(409, f"Reference already exists: {ref}")
            repo["refs"][ref] = resolve(repo, target)
            self.hub.save()
        self.answer({})

    # ------------------------------------------------------------------------ uploads

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
            raise Problem(400, "The provided sha256 does not match what was sent")
        partial.replace(self.hub.blob(f"{sha}.{part}" if part else sha))
        self.answer(b"", headers={"ETag": f'"{digest.hexdigest()}"'})

    def complete(self, sha: str) -> None:
        parts = [self.hub.blob(f"{sha}.{p['partNumber']}") for p in self.json()["parts"]]
        data = b"".join(part.read_bytes() for part in parts)
        for part in parts:
            part.unlink()
        if hashlib.sha256(data).hexdigest() != sha:
            raise Problem(400, "The provided sha256 does not match what was sent")
        self.hub.blob(sha).write_bytes(data)
        self.answer({})

    def verify(self, sha: str) -> None:
        asked = self.json()
        file = self.hub.blob(sha)
        if not file.exists() or file.stat().st_size != asked["size"]:
            raise Problem(404, "The object is not here in this size")
        self.answer({})

    def commit(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name, write=True)
        lines = [json.loads(line) for line in b"".join(self.body()).splitlines()]
        header = lines[0]["value"]
        with self.hub.lock:
            parent, asked = resolve(repo, revision), header.get("parentCommit")
            is_pr = "create_pr" in self.query
            if asked and not is_pr and not parent.startswith(asked):
                raise Problem(412, "A commit has happened since. Please refresh and try again.")
            files = dict(repo["commits"][parent]["files"])
            for line in lines[1:]:
                self._apply(files, line["key"], line["value"])
            ref = next((r for r in (revision, f"refs/heads/{revision}") if r in repo["refs"]), "")
            number = 1 + sum(r.startswith("refs/pr/") for r in repo["refs"])
            if is_pr:
                ref = f"refs/pr/{number}"
                repo["refs"][ref] = parent
            if not ref:
                raise Problem(404, f"Not a branch: {revision}", "RevisionNotFound")
            oid = self.hub.commit(repo, ref, header["summary"], files)
            self.hub.save()
        url = f"{self.origin()}/{'' if kind == 'models' else kind + '/'}{name}"
        pull = f"{url}/discussions/{number}" if is_pr else None
        done = {"success": True, "commitOid": oid, "commitUrl": f"{url}/commit/{oid}"}
        self.answer(done | {"pullRequestUrl": pull, "hookOutput": ""})

    def _apply(self, files: dict[str, Any], key: str, value: dict[str, Any]) -> None:
        path = value["path"]
        if key == "file":
            files[path] = self.regular(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            sha, xet = value["oid"], self.hub.xet.files.get(value["oid"])
            if not self.hub.blob(sha).exists() and not xet:
                message = "Your push was rejected because an LFS pointer pointed to a file that "
                raise Problem(400, f"{message}does not exist: {path}")
            size = self.hub.xet.size(xet) if xet else self.hub.blob(sha).stat().st_size
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize {size}\n"
            files[path] = self.regular(pointer.encode()) | {"size": size, "lfs": sha, "xet": xet}
        else:
            gone = [p for p in files if p == path or p.startswith(f"{path.rstrip('/')}/")]
            for old in gone:
                del files[old]

    # ------------------------------------------------------------------------ downloads

    def download(self, prefix: str, name: str, revision: str, path: str) -> None:
        kind = prefix.strip("/") or "models"
        repo = self.repo(kind, name)
        if repo["gated"] and self.user()[0] != name.split("/")[0]:
            message = f"Access to {kind[:-1]} {name} is restricted. You must have access to it."
            raise Problem(403 if self.user()[0] else 401, message, "GatedRepo")
        oid = resolve(repo, revision)
        file = repo["commits"][oid]["files"].get(path)
        if file is None:
            raise Problem(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": oid})
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
            raise Problem(400, "A token must not leave the Hub")
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

    # ------------------------------------------------------------------------ collections

    def new_collection(self) -> None:
        asked, (user, role) = self.json(), self.user(must=True)
        if asked["namespace"] != user or role != "write":
            raise Problem(403, "You don't have the rights to create a collection here")
        words = re.sub(r"\W+", "-", asked["title"].lower()).strip("-")
        slug = f"{user}/{words}-{hashlib.sha1(words.encode()).hexdigest()[:24]}"
        with self.hub.lock:
            if slug in self.hub.collections:
                message = "A collection of this title exists"
                return self.answer({"error": message, "slug": slug}, 409)
            facts = {"slug": slug, "title": asked["title"], "owner": {"name": user}, "items": []}
            facts |= {"private": bool(asked.get("private")), "lastUpdated": DATE, "position": 0}
            self.hub.collections[slug] = facts | {"theme": "blue", "upvotes": 0}
            self.hub.save()
        return self.answer(self.hub.collections[slug])

    def collection(self, slug: str) -> dict[str, Any]:
        found = self.hub.collections.get(slug)
        if found is None or (found["private"] and self.user()[0] != slug.split("/")[0]):
            raise Problem(404, "Collection not found")
        return found

    def show_collection(self, slug: str) -> None:
        self.answer(self.collection(slug))

    def add_item(self, slug: str) -> None:
        found, item = self.collection(slug), self.json()["item"]
        if self.user(must=True) != (slug.split("/")[0], "write"):
            raise Problem(403, "You don't have the rights to change this collection")
        self.repo(f"{item['type']}s", item["id"])
        with self.hub.lock:
            if any((i["id"], i["type"]) == (item["id"], item["type"]) for i in found["items"]):
                raise Problem(409, "This item is in the collection already")
            place = {"position": len(found["items"]), "_id": str(len(found["items"]))}
            found["items"].append(item | place)
            self.hub.save()
        self.answer(found)

    # ------------------------------------------------------------------------ Xet, and tests

    def xet_token(self, kind: str, name: str, mode: str, _revision: str) -> None:
        self.repo(kind, name, write=mode == "write")
        url = self.origin()
        facts = {"casUrl": url, "exp": 4102444800, "accessToken": f"xet_{mode}"}
        headers = {"X-Xet-Cas-Url": url, "X-Xet-Token-Expiration": "4102444800"}
        self.answer(facts, headers=headers | {"X-Xet-Access-Token": facts["accessToken"]})

    def xet_call(self, path: str) -> None:
        rights = self.headers.get("Authorization", "")
        is_write = self.command in ("POST", "PUT")
        if rights != "Bearer xet_write" and (is_write or rights != "Bearer xet_read"):
            raise Problem(401, "No such token")
        answer = self.hub.xet.call(self.command, path, b"".join(self.body()), self)
        if answer is None:
            raise Problem(404, "not here")
        self.answer(answer)

    def xet_data(self, name: str) -> None:
        self._send(self.hub.xet.folder / name, {})

    def test(self, what: str) -> None:
        if what == "fault":
            self.hub.faults.append({"times": 1} | self.json())
        elif what == "gate":
            self.hub.repos[self.json()["repo"]]["gated"] = "manual"
        elif what == "publish":
            self.hub.repos[self.json()["repo"]]["private"] = False
        state = {"repos": self.hub.repos, "requests": self.hub.requests}
        self.answer(state | {"collections": self.hub.collections})


def plan(file: dict[str, Any], old: dict[str, Any] | None) -> dict[str, Any]:
    """How a file is to come, and what lies there under its name."""
    is_large = file["path"].endswith(LARGE) or file["size"] > 10 << 20
    old_oid = old and (old.get("lfs") or old["oid"])
    how = {"uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}
    return {"path": file["path"], "oid": old_oid} | how


def entry(path: str, file: dict[str, Any]) -> dict[str, Any]:
    """A file, as a listing shows it."""
    row = {"type": "file", "path": path, "oid": file["oid"], "size": file["size"]}
    if file.get("lfs"):
        row["lfs"] = {"oid": file["lfs"], "size": file["size"], "pointerSize": 134}
        row |= {"xetHash": file["xet"]} if file["xet"] else {}
    return row


KIND, NAME, REV = r"(models|datasets|spaces)", r"([^/]+/[^/]+)", r"([^/]+)"
API = rf"/api/{KIND}/{NAME}"
ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("POST GET", r"/_test/(\w+)", Handler.test),
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/repos/create", Handler.create_repo),
    ("POST", r"/api/validate-yaml", Handler.validate_yaml),
    ("POST", r"/api/collections", Handler.new_collection),
    ("POST", rf"/api/collections/{NAME}/items", Handler.add_item),
    ("GET", rf"/api/collections/{NAME}", Handler.show_collection),
    ("GET", API, Handler.info),
    ("GET", rf"{API}/revision/{REV}", Handler.info),
    ("GET", rf"{API}/refs", Handler.refs),
    ("GET", rf"{API}/tree/{REV}(?:/(.+))?", Handler.tree),
    ("POST", rf"{API}/paths-info/{REV}", Handler.paths_info),
    ("POST", rf"{API}/(branch|tag)/{REV}", Handler.new_ref),
    ("POST", rf"{API}/preupload/{REV}", Handler.preupload),
    ("POST", rf"{API}/commit/{REV}", Handler.commit),
    ("GET", rf"{API}/xet-(read|write)-token/{REV}", Handler.xet_token),
    ("POST", rf"/(datasets/|spaces/|){NAME}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", r"/lfs/(\w{64})(?:/(\d+))?", Handler.put),
    ("POST", r"/lfs/(\w{64})/complete", Handler.complete),
    ("POST", r"/lfs/(\w{64})/verify", Handler.verify),
    ("GET HEAD", r"/cdn/(\w{64})", Handler.cdn),
    ("GET", r"/xet/([\w.]+)", Handler.xet_data),
    ("GET HEAD POST PUT", r"/(v[12]/.+|shards|xorbs/.+|reconstructions?/.+)", Handler.xet_call),
    ("GET HEAD", rf"/(datasets/|spaces/|){NAME}/resolve/{REV}/(.+)", Handler.download),
]


def main() -> None:
    """Serve until killed."""
    Handler.hub = Hub(Path(sys.argv[1]))
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)  # noqa: T201
    server.serve_forever()


if __name__ == "__main__":
    main()
