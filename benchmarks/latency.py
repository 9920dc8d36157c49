# SPDX-License-Identifier: Apache-2.0
"""How long does a robot wait for a chunk of actions, and how evenly?

    python benchmarks/latency.py [--calls 2000] [--threads 1] [--policies baku-tabletop ...]
    python benchmarks/latency.py --policies baku-default --peer-path CLONE_OF_THE_AUTHORS_CODE
    python benchmarks/latency.py --robot outputs/finetune --forms eager compiled --seconds 60

From two uint8 pictures, a state and an instruction to a chunk in the robot's units, batch 1, random
weights: the policy as it is (`eager`), `compile_for_inference()` (`compiled`), the file of
`lawm-hf export --onnx` in onnxruntime (`onnx`), LeRobot's ACT with its default sizes (`act`), the
authors' BAKU (`authors`). All in one process, in turns, forwards and backwards; one JSON line each.
On a busy machine wall time says little: compare `cpu_ms`, the time of the process.

With `--robot` a finetuned policy drives the tabletop robot in real time, and what counts is the
share of steps that were done within 1 / fps.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import conditions, order, report

from lawm_hf.hub.onnx_export import export_onnx
from lawm_hf.models import LAWMPolicy, LAWMProcessor
from lawm_hf.models.auto_lawm import new_policy

TASK = "go to the red cube"
_PACKAGES = ("onnxruntime", "lerobot")
ROUND = 20  # Calls of one form before the next has its turn.
Form = Callable[[torch.Tensor, np.ndarray], Any]


def onnx_form(policy: LAWMPolicy, processor: LAWMProcessor, threads: int) -> Form:
    """Our processor before, the exported file behind."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    with tempfile.TemporaryDirectory() as folder:
        policy.save_pretrained(folder)
        processor.save_pretrained(folder)
        content = export_onnx(folder).read_bytes()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def act(images: torch.Tensor, state: np.ndarray) -> Any:
        batch = processor(images=images, task=[TASK], state=state) | policy.draw_noise(1)
        return session.run(None, {name: value.numpy() for name, value in batch.items()})[0]

    return act


def torch_form(policy: LAWMPolicy, processor: LAWMProcessor) -> Form:
    """The policy, whatever its `predict_action_chunk` is by now."""

    def act(images: torch.Tensor, state: np.ndarray) -> Any:
        batch = processor(images=images, task=[TASK], state=state)
        return processor.unnormalize_actions(policy.predict_action_chunk(**batch)).numpy()

    return act


def act_form(side: int) -> tuple[Form, int]:
    """LeRobot's ACT, and its number of parameters."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy

    keys = ("observation.images.image", "observation.images.image2")
    views = {key: PolicyFeature(FeatureType.VISUAL, (3, side, side)) for key in keys}
    policy = ACTPolicy(
        ACTConfig(
            device="cpu",
            input_features={
                **views,
                "observation.state": PolicyFeature(FeatureType.STATE, (8,)),
            },
            output_features={"action": PolicyFeature(FeatureType.ACTION, (7,))},
            chunk_size=10,
            n_action_steps=10,
            pretrained_backbone_weights=None,
        )
    ).eval()

    def act(images: torch.Tensor, state: np.ndarray) -> Any:
        batch = dict(zip(keys, (images / 255).unbind(1), strict=True))
        return policy.predict_action_chunk(
            batch | {"observation.state": torch.from_numpy(state)}
        ).numpy()

    return act, sum(p.numel() for p in policy.parameters())


def authors_form(clone: Path, task: torch.Tensor) -> tuple[Form, int]:
    """The authors' BAKU with its `sample_actions`; the instruction is embedded beforehand."""
    from authors import build_policy
    from torchvision.transforms import Normalize

    policy: Any = build_policy(clone).eval()
    # As with the ImageNet weights that theirs begins with.
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    policy.encoder.image_encoders.normalizer = Normalize(mean, std)
    motors = {"robot0_eef_pos": torch.zeros(1, 1, 3), "robot0_gripper_qpos": torch.zeros(1, 1, 2)}

    def act(images: torch.Tensor, state: np.ndarray) -> Any:
        front, wrist = images.unsqueeze(2).float().unbind(1)
        views = {"agentview_image": front, "robot0_eye_in_hand_image": wrist}
        return policy.sample_actions({"obs": views | motors, "task_emb": task})

    return act, sum(p.numel() for p in policy.parameters())


def make_forms(name: str, args: argparse.Namespace) -> tuple[dict[str, Form], dict[str, int], int]:
    """What is compared for one policy, the numbers of parameters, and the side of the pictures."""
    kind, _, preset = name.rpartition("-")
    torch.manual_seed(0)
    policy = new_policy(kind, preset).eval()
    side = policy.config.image_size
    ones = {"min": [-1.0] * 8, "max": [1.0] * 8}
    stats = {"state_stats": ones, "action_stats": {k: v[:7] for k, v in ones.items()}}
    processor = LAWMProcessor(image_size=side, task_embed_size=512, **stats)
    count = sum(p.numel() for p in policy.parameters())
    forms, sizes = {"eager": torch_form(policy, processor)}, {}
    if "onnx" in args.forms:
        forms["onnx"] = onnx_form(policy, processor, args.threads)
    if "compiled" in args.forms:
        start = time.process_time()
        forms["compiled"] = torch_form(policy.compile_for_inference(), processor)
        print(f"{name}: compiled, {time.process_time() - start:.0f} s of this process alone")
    if "act" in args.forms:
        forms["act"], sizes["act"] = act_form(side)
    if args.peer_path is not None:
        task = processor(images=torch.zeros(1, 1, 3, side, side), task=[TASK])["task_embeds"]
        forms["authors"], sizes["authors"] = authors_form(args.peer_path, task)
        if kind != "baku" or abs(sizes["authors"] / count - 1) > 0.01:
            sys.exit(f"A comparison needs equal sizes: {count:,} and {sizes['authors']:,}.")
    return forms, {**dict.fromkeys(forms, count), **sizes}, side


def measure(name: str, args: argparse.Namespace) -> None:
    """Time the forms in turns; print a line each, and their ratio to the first."""
    forms, sizes, side = make_forms(name, args)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 1, 2, 3, side, side), generator=generator).to(torch.uint8)
    state = np.zeros((1, 8), np.float32)
    wall: dict[str, list[float]] = {form: [] for form in forms}
    cpu: dict[str, list[float]] = {form: [] for form in forms}
    for index in range(-1, max(1, args.calls // ROUND)):  # the round before the first warms up
        for form in order(forms, index):
            for call in range(ROUND):
                starts = time.perf_counter(), time.process_time()
                forms[form](images[call % 8], state)
                ends = time.perf_counter(), time.process_time()
                if index >= 0:
                    wall[form].append(1e3 * (ends[0] - starts[0]))
                    cpu[form].append(1e3 * (ends[1] - starts[1]))
    about = conditions(*_PACKAGES)
    for form in forms:
        line: dict[str, Any] = {"policy": name, "form": form, "parameters": sizes[form]}
        line["calls"] = len(wall[form])
        for what, values in (("cpu_ms", cpu[form]), ("wall_ms", wall[form])):
            line[what] = dict(
                zip(
                    ("p50", "p95", "p99"), np.percentile(values, [50, 95, 99]).round(2), strict=True
                )
            )
        line["times_eager"] = round(float(np.median(cpu["eager"]) / np.median(cpu[form])), 2)
        if "authors" in forms:
            rounds = [np.array(cpu[f]).reshape(-1, ROUND).mean(1) for f in ("authors", form)]
            line["times_authors"] = round(float(np.median(rounds[0] / rounds[1])), 2)
        report(**line | about)


def main() -> None:
    """Measure all, or drive the robot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--policies", nargs="+", default=["baku-tabletop", "baku-default"])
    parser.add_argument("--forms", nargs="+", default=["eager", "compiled", "onnx", "act"])
    parser.add_argument("--peer-path", type=Path)
    parser.add_argument("--robot", type=Path, help="folder of a finetuned policy")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--fps", type=float, default=20)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.robot is not None:
        from real_time import drive

        for form in args.forms:
            line = drive(args.robot, form, args.fps, args.seconds)
            report(**line | conditions(*_PACKAGES))
        return
    for name in args.policies:
        measure(name, args)


if __name__ == "__main__":
    main()
