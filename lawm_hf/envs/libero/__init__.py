# SPDX-License-Identifier: Apache-2.0
"""LIBERO: its set-up, its gymnasium environment, an expert for libero_object and a recorder."""

from .env import SUITES, VIEWS, LiberoEnv
from .setup import prepare_libero

__all__ = ["SUITES", "VIEWS", "LiberoEnv", "prepare_libero"]
