# SPDX-License-Identifier: Apache-2.0
"""Between two lines of the log nothing waits for the device.

The device is torch's `meta`: it holds no numbers, so whoever looks at one is caught. The recipes
run on it as they are; data, instructions and checks stay on the CPU, as beside a GPU.
"""

import importlib
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lawm_hf.training import ProgressLog

META = torch.device("meta")
NUM_WATCHED = 1
RECORDING = "tabletop:reach,episodes=16,num_workers=1"
# What answers with a number, or with as many as the data say.
_LOOKS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2"),
    *("unique_dim", "unique_consecutive", "bincount", "allclose"),
}


class Waits(TorchDispatchMode):
    """Lists what would make a CPU wait for its GPU."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []
        self.literals = Literals(self.note)

    def __enter__(self):
        self.literals.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.literals.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)]
        on_device = [tensor for tensor in tensors if tensor.device == META]
        beside = [tensor for tensor in tensors if tensor.device != META and tensor.ndim]
        name = func.overloadpacket.__name__
        masks = [t for t in on_device[1:] if t.dtype in (torch.bool, torch.uint8)]
        if name in ("copy_", "_to_copy"):
            target = (
                args[0].device
                if name == "copy_"
                else torch.device(kwargs.get("device") or tensors[0].device)
            )
            is_blocking = not (kwargs.get("non_blocking") or args[2:])
            if on_device and target != META:
                self.note("copy from the device")
            elif is_blocking and beside and target == META:
                self.note("blocking copy to the device")
        elif on_device and (name in _LOOKS or beside or ("index" in name and masks)):
            self.note(name)
            if name == "_local_scalar_dense":
                return False if on_device[0].dtype == torch.bool else 1.0
        return func(*args, **kwargs)

    def note(self, what: str) -> None:
        ours = [f for f in traceback.extract_stack() if "site-packages" not in f.filename]
        self.found.append(f"{what} at {ours[-3].filename}:{ours[-3].lineno} {ours[-3].line}")


class Literals(TorchFunctionMode):
    """Notes tensors that are made of Python's numbers on the device."""

    def __init__(self, note):
        super().__init__()
        self.note = note

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = func in (torch.tensor, torch.Tensor.new_tensor) or (
            func is torch.as_tensor and not torch.is_tensor(args[0])
        )
        if made and result.device == META:
            self.note("numbers to the device")
        return result


class LoopEnd(Exception):  # noqa: N818
    """The updates have been made."""


def updates_on_meta(monkeypatch, name: str, folder: Path, **options: Any) -> list[str]:
    """Run a recipe's loop on the device; what waits there, but for the first update."""
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    module: Any = importlib.import_module(f"lawm_hf.recipes.{name}")
    waits = Waits()
    update = ProgressLog.update

    def update_and_watch(log, step, progress=None):
        update(log, step, progress)
        if step == 1:  # which makes what there is once
            waits.__enter__()
        elif step == 1 + NUM_WATCHED:
            raise LoopEnd

    monkeypatch.setattr(Accelerator, "device", META)
    monkeypatch.setattr(ProgressLog, "update", update_and_watch)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # it knows no `meta`
    adam = sys.modules["torch.optim.adam"]  # `torch.optim` hides it
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda *_: None)
    arguments = {"pretrain": "PretrainArgs", "finetune": "FinetuneArgs"}[name]
    options = {"batch_size": 4, "log_every": 100, "steps": 200} | options
    try:
        module.main(getattr(module, arguments)(output_dir=str(folder), **options))
    except LoopEnd:
        waits.__exit__(None, None, None)
    else:
        raise AssertionError("the loop ended early")
    return waits.found


SMALL = '{"hidden_size": 32, "num_layers": 1}'
UNET = '{"hidden_size": 32, "down_dims": [8, 16]}'
DENOISER = '{"channels": [8, 16], "hidden_size": 16, "num_decoded_steps": 2}'
FORESIGHT = '{"hidden_size": 16, "num_layers": 1, "num_decoded_steps": 2}'
WORLD = '{"training_states": "posterior", "residual": "composite", "deter_size": 32, "depth": 8}'


@pytest.mark.parametrize(
    "options",
    [
        {"policy_config": SMALL, "shuffle_instructions": True},
        {"policy_type": "diffusion", "policy_config": UNET, "gradient_accumulation_steps": 2},
        {"policy_config": SMALL, "world_model_config": WORLD},
        {
            "policy_config": SMALL,
            "world_model_type": "frame_diffusion",
            "world_model_config": DENOISER,
        },
        {"policy_config": SMALL, "world_model_type": "features", "world_model_config": FORESIGHT},
        {"policy_config": SMALL, "objective": "supervised", "sources": [RECORDING]},
        pytest.param({"policy_preset": "default", "image_size": 64}, marks=pytest.mark.slow),
    ],
)
def test_an_update_of_pretraining_never_waits(monkeypatch, tmp_path, options):
    options = {"sources": [f"{RECORDING},actions=false,views=front"]} | options
    options |= {"eval_source": "none", "chunk_size": 3}
    assert updates_on_meta(monkeypatch, "pretrain", tmp_path, **options) == []


@pytest.mark.parametrize(
    "options",
    [
        {"policy_config": SMALL, "ema_decay": 0.9},
        {"policy_type": "diffusion", "policy_config": UNET},
    ],
)
def test_an_update_of_finetuning_never_waits(monkeypatch, tmp_path, options):
    options = {"source": RECORDING} | options
    assert updates_on_meta(monkeypatch, "finetune", tmp_path, **options) == []


@pytest.mark.parametrize(
    "look",
    [
        lambda x: bool(x.sum()),
        lambda x: x.max().item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
        lambda x: x[x > 0],
        lambda x: x[torch.tensor([0, 1])],
        lambda x: x.nonzero(),
        lambda x: x.copy_(torch.zeros(3)),
        lambda x: torch.zeros(3).to(x.device),
        lambda x: x.new_tensor([1.0, 2.0]),
        lambda x: torch.tensor([1.0, 2.0], device=x.device),
    ],
)
def test_what_waits_is_found(look):
    refused = False
    with Waits() as waits:
        try:
            look(torch.zeros(3, device=META))
        except (RuntimeError, NotImplementedError, TypeError):  # meta has nothing to show
            refused = True
    assert refused or len(waits.found) == 1


def test_what_does_not_wait_is_not_found():
    with Waits() as waits:
        x = torch.zeros(3).to(META, non_blocking=True)
        x.copy_(x + torch.tensor(1.0))
        (x * 2).to(torch.float64)[torch.arange(2, device=META)].clamp(min=0)
    assert waits.found == []
