# SPDX-License-Identifier: Apache-2.0
"""A finetuned policy as one ONNX file, for machines without torch: `lawm-hf export FOLDER --onnx`.

Inputs have the processor's names and any batch size; the output is in the robot's units. What the
processor does besides stands in the file's metadata as plain numbers; docs/performance.md has the
program of 20 lines that runs it with NumPy.
"""

import importlib.util
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..models import LAWMPolicy, LAWMProcessor
from ..models.inference_lawm import capture, example_observation
from ..writing.atomic import check_writable, write_bytes_atomic

TOLERANCE = 1e-4  # Of the policy's actions, which are in [-1, 1].


class _RobotUnits(nn.Module):
    """The last step of the graph: the processor's `unnormalize_actions` with constants."""

    offset: Tensor
    scale: Tensor

    def __init__(self, processor: LAWMProcessor, action_size: int):
        super().__init__()
        middle, end = (
            processor.unnormalize_actions(torch.full((action_size,), x)) for x in (0.0, 1.0)
        )
        self.register_buffer("offset", middle)
        self.register_buffer("scale", end - middle)

    def forward(self, actions: Tensor) -> Tensor:
        return actions.float() * self.scale + self.offset


def export_onnx(
    folder: str | Path, out: str | Path | None = None, tasks: Sequence[str] = ()
) -> Path:
    """Write a policy as ONNX, and compare it in onnxruntime with torch before it gets its name.

    Args:
        folder: Folder or Hub repository of a finetuned policy.
        out: File to write; `policy.onnx` in the folder by default.
        tasks: Instructions whose embeddings the file is to carry.

    Returns:
        The file. Its metadata, each a JSON text: `config`, `images`, `tasks`, `state`.

    Raises:
        ImportError: If the extra `onnx` is not installed.
        ValueError: If the policy is no single graph, reads tokens or has no statistics of its
            actions, or if onnxruntime disagrees with torch by more than 1e-4.
    """
    missing = [n for n in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(n)]
    if missing:
        raise ImportError(
            f"Writing ONNX needs {', '.join(missing)}. `pip install 'lawm_hf[onnx]'` has them, or "
            "in a clone `uv pip install -e '.[onnx]'`."
        )
    if out is None and not Path(folder).is_dir():
        raise ValueError(f"{str(folder)!r} is not a local folder: say with `--out` where to write.")
    if out is None:
        check_writable(folder)
    policy = LAWMPolicy.from_pretrained(folder).float().eval()
    if policy.config.num_task_tokens:
        raise ValueError(
            "The file carries embeddings of instructions, and this policy reads token ids. Use "
            "`policy.compile_for_inference()`, or the policy as it is."
        )
    processor = LAWMProcessor.from_pretrained(folder)
    finish = _RobotUnits(processor, policy.config.action_size)
    program = capture(policy, finish)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # About torch's own code.
        exported: Any = torch.onnx.export(
            program,
            input_names=list(example_observation(policy)),
            output_names=["actions"],
            dynamo=True,
            verbose=False,
        )
    for name, value in describe(policy, processor, tasks).items():
        exported.model.metadata_props[name] = json.dumps(value)
    content = exported.model_proto.SerializeToString()
    error = compare(content, policy, finish)
    if not error <= TOLERANCE:
        raise ValueError(
            f"onnxruntime must agree with torch to {TOLERANCE:g} of the policy's range, got "
            f"{error:.2g}; nothing was written. Try another version of torch or onnxruntime."
        )
    path = Path(out) if out is not None else Path(folder, "policy.onnx")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(path, content)
    return path


def compare(content: bytes, policy: LAWMPolicy, finish: nn.Module) -> float:
    """Largest difference between onnxruntime and torch, in the policy's range [-1, 1]."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    scale = finish.get_buffer("scale").abs()
    scale = torch.where(scale > 0, scale, 1.0)
    worst = []
    for batch_size in (1, 3):
        observation = example_observation(policy, batch_size)
        with torch.no_grad():
            expected = finish(policy.predict_action_chunk(**observation))
        got = session.run(["actions"], {k: v.numpy() for k, v in observation.items()})[0]
        worst.append(((torch.from_numpy(got) - expected).abs() / scale).max())
    return torch.stack(worst).max().item()  # NaN if any is.


def describe(policy: LAWMPolicy, processor: LAWMProcessor, tasks: Sequence[str]) -> dict[str, Any]:
    """What a program that runs the file must know: the numbers behind each input."""
    config = policy.config
    about: dict[str, Any] = {
        "config": json.loads(config.to_json_string(use_diff=False)),
        "images": {
            "size": processor.image_size,
            "mean": list(processor.image_mean),
            "std": list(processor.image_std),
        },
        "tasks": {},
    }
    for task in tasks:
        picture = torch.zeros(1, 1, 3, processor.image_size, processor.image_size)
        about["tasks"][task] = processor(images=picture, task=[task])["task_embeds"][0].tolist()
    if config.state_size:
        about["state"] = _state_numbers(processor, config.state_size)
    return about


def _state_numbers(processor: LAWMProcessor, size: int) -> dict[str, Any]:
    """`(state - offset) * gain`, in [-1, 1] if `clip` says so, is what the processor does."""
    normalizer, offset, scale = processor.state_normalizer, torch.zeros(size), torch.ones(size)
    normalizer.normalize(offset)  # Complains about absent statistics.
    if normalizer.offset is not None and normalizer.scale is not None:
        offset, scale = normalizer.offset, normalizer.scale
    gain = torch.where(scale > 0, 1 / scale.clamp(min=1e-12), 0.0)
    clip = normalizer.mode == "quantile"
    return {"offset": offset.tolist(), "gain": gain.tolist(), "clip": clip}
