# SPDX-License-Identifier: Apache-2.0
"""LeRobot's policy server for asynchronous inference, with our policies on its list.

    python -m lawm_hf.lerobot.policy_server --host=localhost --port=8080
    python -m lerobot.async_inference.robot_client --policy_type=lawm \
        --pretrained_name_or_path=FOLDER --actions_per_chunk=2 --robot.type=... --task="..."

Why two actions, and what that measured: `docs/robots.md`. LeRobot 0.6.1
starts its server with a fixed list and without plug-ins; the client loads them (ours is
`plugins/lerobot_policy_lawm`). Both unpickle what they receive: trusted networks only.
"""

from lerobot.async_inference.constants import SUPPORTED_POLICIES
from lerobot.async_inference.policy_server import serve

import lawm_hf.lerobot  # noqa: F401  (registers the policy)

SUPPORTED_POLICIES.append("lawm")

if __name__ == "__main__":
    serve()  # pyright: ignore[reportCallIssue]  (draccus gives it the configuration)
