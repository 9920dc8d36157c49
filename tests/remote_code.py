# SPDX-License-Identifier: Apache-2.0
"""What a saved world model does where this package is not."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def loss_as_remote_code(model: Any, inputs: dict[str, Any], folder: Path) -> float:
    """The loss that a saved world model has in a process without this package."""
    model.save_pretrained(folder / "world_model")
    torch.save(inputs, folder / "inputs.pt")
    script = (
        "import sys, torch; sys.modules['lawm_hf'] = None\n"
        "from transformers import AutoModel\n"
        "m = AutoModel.from_pretrained('world_model', trust_remote_code=True).eval()\n"
        "print(m(**torch.load('inputs.pt')).loss.item())"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, "HF_MODULES_CACHE": str(folder / "modules")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return float(result.stdout.split()[-1])
