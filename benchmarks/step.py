# SPDX-License-Identifier: Apache-2.0
"""CPU time of one training update: ours, the LAWM authors' code, and what this CPU can do.

    OMP_NUM_THREADS=1 python benchmarks/step.py --rows tabletop finetune
    OMP_NUM_THREADS=1 python benchmarks/step.py --rows joint --peer-path CLONE   # 10 GiB
    OMP_NUM_THREADS=1 python benchmarks/step.py --rows joint --peer-path CLONE --tuned
    OMP_NUM_THREADS=1 python benchmarks/step.py --rows tabletop --before OTHER_CHECKOUT
    OMP_NUM_THREADS=1 python benchmarks/step.py --rows joint --before OTHER_CHECKOUT --tuned

Rows: `joint`, BAKU and the world model "50m" as the authors build it, two views of 128 pixels, 10
latent actions; `default`, the same with our architecture of that name, which is smaller and says
so; `chunk`, one chunk of actions from two views; `tabletop` and `finetune`, the README's commands.

All sides run in one process, in turn A B B A; reported are medians and the range of the ratios of
each round. The bound is measured in the same run: each product and convolution at the rate of a
large one, or its bytes at the rate of a copy if that is longer, and 28 bytes per parameter for
AdamW. `--tuned` gives all sides the settings of the recipes (`tune_cpu`); with `--before` this
checkout always has them, and the other one with `--tuned`. An allocator is for `LD_PRELOAD`. One
JSON line per side.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from common import conditions, in_turn, order, ratios, spread
from common import report as print_line
from roofline import bound_ms, limits
from torch import Tensor, nn

from lawm_hf import training
from lawm_hf.models import BakuConfig, BakuPolicy, LAWMProcessor
from lawm_hf.models.auto_lawm import new_objective, new_policy, new_world_model
from lawm_hf.models.configuration_dreamer import DreamerV3Config
from lawm_hf.models.modeling_dreamer import DreamerV3WorldModel
from lawm_hf.models.modeling_pretraining import LAWMForPretraining

Side = Callable[[], object]


def update(
    modules: list[nn.Module],
    optimizers: list,
    loss: Callable[[], Tensor],
    clip: Callable = nn.utils.clip_grad_norm_,
) -> Side:
    """One update: gradient, clipping of each module, optimisers."""

    def step() -> None:
        loss().backward()
        for module in modules:
            clip(module.parameters(), 100.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def our_update(model: nn.Module, modules: list[nn.Module], loss: Callable[[], Tensor]) -> Side:
    """`update` with the optimiser and the clipping of the recipes."""
    groups = training.parameter_groups(model, 1e-5, 1e-4, {})
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
    # A checkout of before it was written clips as torch does.
    clip = getattr(training, "clip_norm", nn.utils.clip_grad_norm_)
    return update(modules, [optimizer], loss, clip)


def paper_batch(batch_size: int) -> dict[str, Tensor]:
    """Two views, state, instruction and 11 frames of random pixels."""
    generator = torch.Generator().manual_seed(0)
    pixels, frames = (
        torch.randint(0, 256, (batch_size, n, 3, 128, 128), dtype=torch.uint8, generator=generator)
        for n in (2, 11)
    )
    state, task = (torch.randn(batch_size, n, generator=generator) for n in (5, 512))
    return {"pixels": pixels, "frames": frames, "state": state, "task_embeds": task}


def our_inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch as the processor would hand it on."""
    views = batch["pixels"] * (1 / 127.5) - 1
    return {"pixel_values": views, "state": batch["state"], "task_embeds": batch["task_embeds"]}


def joint_sides(variant: str, peer: Path | None, batch_size: int) -> dict[str, tuple]:
    """BAKU and world model 50m in float32 and bfloat16, and the authors' as released and mended."""
    batch, sides = paper_batch(batch_size), {}

    def ours(is_bf16: bool) -> tuple[Side, nn.Module]:
        policy = BakuPolicy(BakuConfig(state_size=5, task_embed_size=512, chunk_size=10))
        world_model = DreamerV3WorldModel(DreamerV3Config.from_preset("50m", variant))
        model = LAWMForPretraining(policy, world_model).train()

        def loss() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
                return model(frames=batch["frames"], **our_inputs(batch)).loss

        return our_update(model, [policy, world_model], loss), model

    def theirs(is_mended: bool) -> tuple[Side, nn.Module]:
        from authors import AuthorsJoint

        model = AuthorsJoint(peer, "50m", is_mended).train()
        return update([model], model.optimizers(), lambda: model.loss(batch)), model

    if peer:
        sides |= {
            "authors, mended": lambda: theirs(True),
            "authors, released": lambda: theirs(False),
        }
    sides |= {"ours": lambda: ours(False), "ours, bfloat16": lambda: ours(True)}
    built = {name: build() for name, build in sides.items()}
    if variant == "authors":
        refuse_unequal({name: model for name, (_, model) in built.items()})
    return built


def refuse_unequal(models: dict[str, nn.Module]) -> None:
    """World models must have the same number of parameters, policies within a hundredth."""
    counts = {
        name: [sum(p.numel() for p in part.parameters()) for part in (m.world_model, m.policy)]
        for name, m in models.items()
    }
    worlds, policies = zip(*counts.values(), strict=True)
    if len(set(worlds)) > 1 or max(policies) > 1.01 * min(policies):
        raise SystemExit(f"Sides must have equally many parameters, got {counts}.")


def chunk_sides(peer: Path | None) -> dict[str, tuple]:
    """One chunk from one observation, in evaluation."""
    batch = paper_batch(1)
    policy = BakuPolicy(BakuConfig(state_size=5, task_embed_size=512, chunk_size=10)).eval()
    sides = {}
    if peer:
        from authors import AuthorsJoint

        model = AuthorsJoint(peer, "1m", is_mended=True).eval()
        sides["authors, mended"] = (torch.no_grad()(lambda: model.latents(batch)), model.policy)
    inputs = our_inputs(batch)
    sides["ours"] = (lambda: policy.predict_action_chunk(**inputs), policy)
    return sides


def tabletop_sides(is_finetuning: bool) -> dict[str, tuple]:
    """What `recipes/pretrain.py` and `recipes/finetune.py` do by default, processor included."""
    generator = torch.Generator().manual_seed(0)

    def pixels(*shape: int) -> Tensor:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    sizes = {"chunk_size": 10, "image_size": 64}
    norm = "none" if is_finetuning else "batch"
    policy = new_policy("baku", "tabletop", latent_norm=norm, state_size=8, **sizes).train()
    width = policy.config.task_embed_size
    processor = LAWMProcessor(image_size=64, frame_size=32, task_embed_size=width)
    raw = {"images": pixels(48, 2 if is_finetuning else 1, 3, 64, 64)}
    raw |= {"task": ["go to the red cube"] * 48}
    if is_finetuning:
        widths = {"state": 8, "actions": 7}
        statistics = {k: {"min": [-1.0] * n, "max": [1.0] * n} for k, n in widths.items()}
        processor.set_statistics(statistics)
        raw |= {"state": torch.rand(48, 8), "actions": torch.rand(48, 10, 7)}
        model, modules = policy, [policy]
    else:
        raw["frames"] = pixels(48, 11, 3, 64, 64)
        world_model = new_world_model("dreamerv3", "tiny", image_size=32, action_size=7)
        model = new_objective("latent", policy, world_model).train()
        modules = [policy, world_model]

    def side(is_bf16: bool) -> tuple[Side, nn.Module]:
        def loss() -> Tensor:
            batch = processor(**raw, augment=is_finetuning)
            with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
                return model(**batch).loss

        return our_update(model, modules, loss), model

    return {"ours": side(is_bf16=False), "ours, bfloat16": side(is_bf16=True)}


def before_and_now(args: argparse.Namespace, row: str) -> None:
    """The same row by this checkout and another one, processes in turn A B B A."""
    checkouts = {"before": args.before, "now": Path(__file__).resolve().parents[1]}
    times: dict[str, list[float]] = {"before": [], "now": []}
    for r in range(args.rounds):
        for name in order(checkouts, r):
            command = [sys.executable, __file__, "--rows", row, "--rounds", "8"]
            command += ["--tuned"] if args.tuned or name == "now" else []
            done = subprocess.run(
                command,
                env=os.environ | {"PYTHONPATH": str(checkouts[name])},
                capture_output=True,
                text=True,
                check=True,
            )
            line = next(x for x in done.stdout.splitlines() if x.startswith('{"row"'))
            times[name].append(json.loads(line)["ms"])
    report(row, times, {}, "before")


def report(row: str, times: dict[str, list[float]], more: dict[str, dict], base: str) -> None:
    """Print one JSON line per side."""
    settings = {
        "allocator": os.environ.get("LD_PRELOAD", "glibc"),
        "matmul": torch.get_float32_matmul_precision(),
        "tuned": "--tuned" in sys.argv,
    }
    for name, values in times.items():
        ms, ms_range = spread(values)
        ratio, ratio_range = ratios(times, name, base)
        line = {"row": row, "side": name, "ms": ms, "ms_range": ms_range}
        line |= {"base": base, "ratio": ratio, "ratio_range": ratio_range}
        line |= {"ratio_of_best": round(min(times[base]) / min(values), 2), "rounds": len(values)}
        print_line(**line | more.get(name, {}) | settings | conditions())


def main() -> None:
    """Measure the rows asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    rows = ("joint", "default", "chunk", "tabletop", "finetune")
    parser.add_argument("--rows", nargs="+", default=["tabletop"], choices=rows)
    parser.add_argument("--peer-path", type=Path, help="clone of the authors' code")
    parser.add_argument("--before", type=Path, help="checkout of an earlier state of this project")
    parser.add_argument("--tuned", action="store_true", help="the recipes' settings, for all sides")
    parser.add_argument("--batch_size", type=int, default=8, help="of joint and default")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    if args.tuned:
        from lawm_hf.training.accelerator import tune_cpu

        tune_cpu()
    torch.manual_seed(0)
    for row in args.rows:
        if args.before:
            before_and_now(args, row)
            continue
        if row in ("joint", "default"):
            variant = "authors" if row == "joint" else "default"
            built = joint_sides(variant, args.peer_path, args.batch_size)
        elif row == "chunk":
            built = chunk_sides(args.peer_path)
        else:
            built = tabletop_sides(row == "finetune")
        limit, more = limits(), {}
        times = in_turn({name: side for name, (side, _) in built.items()}, args.rounds)
        for name, (side, model) in built.items():
            bound = bound_ms(side, model, limit, "_bf16" if "bfloat16" in name else "")
            count = sum(p.numel() for p in model.parameters())
            reached = round(bound / min(times[name]), 2)
            more[name] = {"parameters": count, "bound_ms": round(bound, 1), "reached": reached}
            more[name] |= {"limits": limit}
        report(row, times, more, next(iter(built)))


if __name__ == "__main__":
    main()
