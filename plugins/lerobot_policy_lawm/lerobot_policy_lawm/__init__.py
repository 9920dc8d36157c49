# SPDX-License-Identifier: Apache-2.0
"""Makes `lawm_hf` known to all of LeRobot's commands: they import whatever is called like this."""

from lawm_hf.lerobot import *  # noqa: F403
