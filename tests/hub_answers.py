# SPDX-License-Identifier: Apache-2.0
"""How the stand-in of the Hub (`hub_server.py`) reads and answers, and who may do what."""

import json
import os
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from hub_state import Hub, Refusal

USERS = {"hf_me": ("me", "write"), "hf_you": ("you", "write"), "hf_read": ("me", "read")}


class Answers(BaseHTTPRequestHandler):
    """A request to one of `routes`: method, pattern of the path, and what answers it."""

    protocol_version = "HTTP/1.1"
    hub: Hub
    routes: ClassVar[list[tuple[str, str, Any]]] = []

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        self.url = urlsplit(self.path)
        self.is_corrupt = False
        self.query = {k: v[0] for k, v in parse_qs(self.url.query).items()}
        try:
            if not self.url.path.startswith("/_test/"):
                self.hub.requests.append([self.command, self.path, dict(self.headers)])
                self._fault()
            for method, pattern, answer in self.routes:
                found = re.fullmatch(pattern, self.url.path)
                if found and self.command in method.split():
                    answer(self, *map(unquote, found.groups("")))
                    return
            raise Refusal(404, f"no such endpoint: {self.command} {self.path}")
        except Refusal as problem:
            self._rest()
            self.answer({"error": str(problem)}, problem.status, problem.headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def _fault(self) -> None:
        """A fault that a test has asked for, of the request that matches, this many times.

        `{status, headers}` refuses, `{die: n}` ends the process after n bytes of the body,
        `{corrupt: true}` changes a byte of it, `{stale: repository}` commits before it.
        """
        with self.hub.lock:
            line = f"{self.command} {self.path}"
            fault = next((f for f in self.hub.faults if re.search(f["match"], line)), None)
            if fault is None:
                return
            fault["times"] -= 1
            if not fault["times"]:
                self.hub.faults.remove(fault)
        self.is_corrupt = "corrupt" in fault
        if "die" in fault:
            self.rfile.read(min(fault["die"], int(self.headers.get("Content-Length", 0))))
            os._exit(1)
        if "stale" in fault:  # an older commit than the newest, as if somebody pushed in between
            with self.hub.lock:
                repo = self.hub.repos[fault["stale"]]
                ref = fault.get("ref", "refs/heads/main")
                files = repo["commits"][repo["refs"][ref]]["files"]
                self.hub.commit(repo, ref, "by somebody else", files)
        if "status" in fault:
            raise Refusal(fault["status"], "a fault", "", **fault.get("headers", {}))

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
            if self.is_corrupt and len(piece) > 500:
                piece = piece[:500] + bytes([piece[500] ^ 1]) + piece[501:]
                self.is_corrupt = False
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

    def user(self, *, must: bool = False) -> tuple[str, str]:
        """Name and role of who asks; empty for nobody."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in USERS:
            raise Refusal(401, "Invalid credentials in Authorization header")
        if must and not token:
            raise Refusal(401, "Invalid username or password.")
        return USERS.get(token, ("", ""))

    def repo(self, kind: str, name: str, *, write: bool = False) -> dict[str, Any]:
        """A repository that the user may see, or write to."""
        user, role = self.user()
        found = self.hub.repos.get(f"{kind}/{name}")
        owner = name.split("/")[0]
        if found is None or (found["private"] and user != owner):
            if not user:  # the Hub tells strangers nothing
                raise Refusal(401, "Invalid username or password.", "RepoNotFound")
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if write and not user:
            raise Refusal(401, "Invalid username or password.")
        if write and (user != owner or role != "write") and "create_pr" not in self.query:
            raise Refusal(403, "You don't have the rights to write to this repository")
        return found

    def whoami(self) -> None:
        user, role = self.user(must=True)
        access = {"displayName": "test", "role": role}
        self.answer({"type": "user", "name": user, "orgs": [], "auth": {"accessToken": access}})

    def origin(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server.server_address[1]}"
