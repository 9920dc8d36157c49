# SPDX-License-Identifier: Apache-2.0
"""The stand-in of the Hub for tests: its process, and this one or a new one as its client."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from processes import free_port

SERVER = Path(__file__).with_name("hub_server.py")


class StandIn:
    """The process `hub_server.py`, which can die and come back with all it had committed."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, str(SERVER), str(self.folder), str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout
        self.process.stdout.readline()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    def ask(self, what: str, **value: Any) -> dict[str, Any]:
        data = json.dumps(value).encode()
        request = urllib.request.Request(f"{self.url}/_test/{what}", data, method="POST")
        for _ in range(50):
            try:
                with urllib.request.urlopen(request) as answer:
                    return json.load(answer)
            except urllib.error.URLError:
                time.sleep(0.05)
        raise AssertionError("the stand-in does not answer")

    def fault(self, match: str, **fault: Any) -> None:
        """Let the next request whose `METHOD /path` matches fail; see `hub_server.py`."""
        self.ask("fault", match=match, **fault)

    def commits(self, repository: str, ref: str = "refs/heads/main") -> list[dict[str, Any]]:
        """Of a branch, the newest first, without the one that made the repository."""
        repo = self.ask("state")["repos"][repository]
        oid, found = repo["refs"][ref], []
        while oid and repo["commits"][oid]["parent"]:
            found.append(repo["commits"][oid])
            oid = repo["commits"][oid]["parent"]
        return found

    def requests(self, pattern: str = "") -> list[str]:
        return [f"{m} {path}" for m, path, _ in self.ask("state")["requests"] if pattern in path]

    def environment(self, home: Path, token: str = "hf_me", **more: str) -> dict[str, str]:
        """For a client in a process of its own."""
        ours = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
        ours |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        without = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        return without | ours | ({"HF_TOKEN": token} if token else {}) | more


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory) -> Iterator[StandIn]:
    server = StandIn(tmp_path_factory.mktemp("hub"))
    yield server
    server.stop()


@pytest.fixture
def online(stand_in, tmp_path, monkeypatch) -> Iterator[StandIn]:
    """This process as a client of the stand-in: its settings, which are read at import, changed."""
    if stand_in.process.poll() is not None:
        stand_in.restart()
    template = stand_in.url + "/{repo_id}/resolve/{revision}/{filename}"
    settings = {"ENDPOINT": stand_in.url, "HUGGINGFACE_CO_URL_TEMPLATE": template}
    settings |= {"HF_HUB_DISABLE_PROGRESS_BARS": True, "HF_HUB_OFFLINE": False}
    settings |= {"HF_HUB_CACHE": str(tmp_path / "cache")}
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "hf_me")
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", stand_in.url)
    close_session()
    yield stand_in
    close_session()


@pytest.fixture(params=["lfs", "xet"])
def storage(request, monkeypatch) -> str:
    """How large files travel: with `hf_xet`, or as without it."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "lfs")
    return request.param
