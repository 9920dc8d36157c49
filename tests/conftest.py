# SPDX-License-Identifier: Apache-2.0
"""Every test runs offline, on one thread, with caches of its own."""

import os
import tempfile

# Before anything imports huggingface_hub: recordings and models never come from the user's cache.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="lawm_hf_tests_")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("LAWM_NUM_THREADS", "1")
os.environ["LAWM_VERBOSE"] = "1"  # A command that a test calls leaves the libraries as they are.

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread_and_a_fixed_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)
