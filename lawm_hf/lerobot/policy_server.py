# SPDX-License-Identifier: Apache-2.0
"""LeRobot's policy server for asynchronous inference, with our policies on its list.

    python -m lawm_hf.lerobot.policy_server --host=unix:$XDG_RUNTIME_DIR/lawm --port=8080
    python -m lerobot.async_inference.robot_client --policy_type=lawm \
        --server_address=unix:$XDG_RUNTIME_DIR/lawm:8080 \
        --pretrained_name_or_path=FOLDER --actions_per_chunk=2 --robot.type=... --task="..."

Why two actions, and what that measured: `docs/robots.md`. LeRobot 0.6.1 starts its server with a
fixed list and without plug-ins; the client loads them (ours is `plugins/lerobot_policy_lawm`). Both
unpickle what they receive, so whoever reaches the port can run code. Hence a socket file, which
only its user can open; `--host=localhost` serves all users of the machine, after a warning, and
other addresses need `--allow_any_host=true`.
"""

import ipaddress
import logging
import os
from dataclasses import dataclass
from typing import Any

import draccus
from lerobot.async_inference.configs import PolicyServerConfig
from lerobot.async_inference.constants import SUPPORTED_POLICIES
from lerobot.async_inference.policy_server import serve

import lawm_hf.lerobot  # noqa: F401  (registers the policy)

SUPPORTED_POLICIES.append("lawm")
_SOCKET = "unix:"


@dataclass
class ServerConfig(PolicyServerConfig):
    """Configuration of LeRobot's server.

    Args:
        allow_any_host: Serve other machines, too. Each of them can run code on this one.
    """

    allow_any_host: bool = False

    def __post_init__(self):
        super().__post_init__()
        is_local = self.host.startswith(_SOCKET) or _is_loopback(self.host)
        if not (is_local or self.allow_any_host):
            raise ValueError(
                f"The server runs code that it is sent, so `host` must be this machine, got "
                f"{self.host!r}. Use `localhost` and an SSH tunnel, or a socket file "
                f"(`--host={_SOCKET}PATH`); in a network that you trust, --allow_any_host=true."
            )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@draccus.wrap()
def main(config: ServerConfig) -> None:
    """Serve until interrupted."""
    if config.host.startswith(_SOCKET):
        os.umask(0o077)  # Only this user may open the socket.
    else:
        logging.warning("Whoever can reach %s:%d can run code here.", config.host, config.port)
    plain: Any = serve  # As it is, it would parse the command line again.
    plain.__wrapped__(config)


if __name__ == "__main__":
    try:
        main()  # pyright: ignore[reportCallIssue]  (draccus gives it the configuration)
    except draccus.ParsingError as error:
        raise SystemExit(str(error.__cause__ or error)) from None
