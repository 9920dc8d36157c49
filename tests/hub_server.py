# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the Hub: a process on this machine that speaks its HTTP API to huggingface_hub.

`python tests/hub_server.py FOLDER PORT` keeps repositories, commits and files in FOLDER, so that it
can be killed and started again. Tokens: `hf_me` and `hf_you` may write in their own namespace,
`hf_read` reads what is `me`'s. `/_test/...` is for tests: what was asked, and faults to come. What
Xet storage adds is in `hub_xet.py`: it speaks the first version, to which `hf_xet` falls back. A
client without `hf_xet`, or with HF_HUB_DISABLE_XET=1, gets the same content by Git LFS.
"""

import sys
from http.server import ThreadingHTTPServer
from pathlib import Path

from hub_files import Files
from hub_repositories import Repositories
from hub_state import Hub, Refusal


class Handler(Repositories, Files):
    """The endpoints; those here are of Xet storage, and for tests."""

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
            raise Refusal(401, "No such token")
        if path.startswith(("v2/", "v1/xorb-")):  # newer ways, which hf_xet tries first
            raise Refusal(404, "no such endpoint")
        answer = self.hub.xet.call(self.command, path, b"".join(self.body()), self)
        if answer is None:
            raise Refusal(404 if self.command == "GET" else 400, "not here, or not as it claims")
        self.answer(answer)

    def xet_data(self, name: str) -> None:
        self._send(self.hub.xet.folder / name, {})

    def test(self, what: str) -> None:
        asked = self.json()
        if what == "fault":
            self.hub.faults.append({"times": 1} | asked)
        elif what == "gate":
            self.hub.repos[asked["repo"]]["gated"] = "manual"
        elif what == "publish":
            self.hub.repos[asked["repo"]]["private"] = False
        state = {"repos": self.hub.repos, "requests": self.hub.requests}
        self.answer(state | {"collections": self.hub.collections})


KIND, NAME, REV = r"(models|datasets|spaces)", r"([^/]+/[^/]+)", r"([^/]+)"
API = rf"/api/{KIND}/{NAME}"
Handler.routes = [
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
