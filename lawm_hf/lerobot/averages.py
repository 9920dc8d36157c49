# SPDX-License-Identifier: Apache-2.0
"""Averaged weights in LeRobot's training: saved to act with, beside those that learn.

`lerobot-train` keeps of a policy what its `from_pretrained` reads, and tells it not whether it is
resumed. So a checkpoint of a run has the averages as `model.safetensors`, which everyone loads, and
the weights as they are in a second file, which a resumed run reads as well.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from lerobot.configs import parser
from lerobot.utils.constants import PRETRAINED_MODEL_DIR, TRAINING_STATE_DIR
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

TRAINING_WEIGHTS = "training_weights.safetensors"


class AveragedPolicy:
    """The exponential average of a policy's weights.

    Args:
        policy: Whose weights are the first average.
        decay: The highest decay, as `recipes/finetune.py` warms it up.
        num_updates: Averaged so far.
    """

    def __init__(self, policy: nn.Module, decay: float, num_updates: int = 0):
        self._ema = EMAModel(policy.parameters(), decay=decay, use_ema_warmup=True, power=0.75)
        self._ema.optimization_step = num_updates

    def step(self, policy: nn.Module) -> None:
        """Take the weights after an update of the optimiser into the average."""
        device = next(policy.parameters()).device
        if self._ema.shadow_params[0].device != device:
            self._ema.to(device)
        self._ema.step(policy.parameters())

    def save(
        self, policy: nn.Module, weights: dict[str, Tensor], folder: Path
    ) -> dict[str, Tensor]:
        """The averages in place of the weights, which go to a file of a run's checkpoint.

        Args:
            policy: Whose weights they are.
            weights: Its whole `state_dict`.
            folder: The one to save to; only a checkpoint's gets the file.
        """
        names = [name for name, _ in policy.named_parameters()]
        if folder.name == PRETRAINED_MODEL_DIR:
            own = {name: weights[name].detach().cpu().contiguous() for name in names}
            progress = {"num_updates": str(self._ema.optimization_step)}
            save_file(own, folder / TRAINING_WEIGHTS, progress)
        averages = zip(names, self._ema.shadow_params, strict=True)
        return weights | {name: mean.to(weights[name]) for name, mean in averages}


@torch.no_grad()
def resume(policy: nn.Module, folder: str | Path, decay: float) -> AveragedPolicy | None:
    """Give a policy that has loaded the averages the weights that training goes on with.

    Args:
        policy: What `model.safetensors` of the checkpoint holds.
        folder: The checkpoint's.
        decay: 0 goes on without an average.

    Raises:
        ValueError: If the weights in the file are not those of this policy.
    """
    file = Path(folder) / TRAINING_WEIGHTS
    if not file.is_file() or not _is_resumed(Path(folder)):
        return None
    with safe_open(file, "pt") as opened:
        num_updates = int(opened.metadata()["num_updates"])
        own = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    parameters = dict(policy.named_parameters())
    if {k: v.shape for k, v in own.items()} != {k: p.shape for k, p in parameters.items()}:
        raise ValueError(
            f"The weights in {str(file)!r} must be those of this policy, got other names or "
            "shapes. Resume with the configuration of the run, or start another from --policy.path."
        )
    average = AveragedPolicy(policy, decay, num_updates) if decay else None
    for name, parameter in parameters.items():
        parameter.copy_(own[name])
    return average


def _is_resumed(folder: Path) -> bool:
    """Whether `lerobot-train` is about to resume from this folder, told as LeRobot tells itself."""
    config_path: Any = parser.parse_arg("config_path")
    if not config_path or parser.get_path_arg("policy"):
        return False
    path = Path(config_path)
    if path.exists():
        return (path.parent if path.is_file() else path).resolve() == folder.resolve()
    return (folder.parent / TRAINING_STATE_DIR).is_dir()  # downloaded from the Hub
