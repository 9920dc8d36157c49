# SPDX-License-Identifier: Apache-2.0
"""Make the small checkpoint that ships with the package, anew: `lawm_hf.TABLETOP`.

    python -m lawm_hf.recipes.small

Pretrains and finetunes as `configs/pretrain_small.yaml` and `configs/finetune_small.yaml` say,
writes both to `lawm_hf/assets/tabletop` with weights in half precision, and plays 200 episodes with
what was written there. Two free cores take about 4 minutes. Weights of one machine are the same
each time.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

import lawm_hf
from lawm_hf.arguments import CommandArgs, arg, run_command
from lawm_hf.hub.push import PARTS

CONFIGS = Path(__file__).parent / "configs"
KEPT = ("model.safetensors", "*.json", "*.jsonl", "args.yaml", "README.md", "strip*.png")
NAMES = {"pretrain": "TABLETOP", "finetune": "TABLETOP_POLICY"}
LARGEST = 5_000_000  # bytes, of all files together
NOTE = (
    "\nWeights are stored in half precision and loaded in single: this rounds each to 11 bits. "
    "Numbers measured in training are those before; success was measured with these files.\n"
)


@dataclass
class SmallArgs(CommandArgs):
    """Arguments of `recipes/small.py`."""

    work_dir: Path = arg(Path("outputs/small"), "where the runs go")
    output_dir: Path = arg(Path(lawm_hf.TABLETOP).parent, "where the checkpoint goes")
    steps: int | None = arg(None, "updates of either, for a trial", min=1)


def main(args: SmallArgs) -> None:
    """Train, pack, measure."""
    pretrained, finetuned = args.work_dir / "pretrain", args.work_dir / "finetune"
    trial = [] if args.steps is None else ["--steps", str(args.steps)]
    start = ["--overwrite", "true", *trial]
    lawm_hf_command("pretrain", CONFIGS / "pretrain_small.yaml", "--output_dir", pretrained, *start)
    source = ["--pretrained", pretrained, "--output_dir", finetuned]
    lawm_hf_command("finetune", CONFIGS / "finetune_small.yaml", *source, *start)
    shutil.rmtree(args.output_dir, ignore_errors=True)
    for run in (pretrained, finetuned):
        pack(run, args.output_dir / run.name)
    played = ["--policy", args.output_dir / finetuned.name, "--output_dir", args.work_dir / "play"]
    lawm_hf_command("evaluate", *played, *(["--episodes", "2"] if trial else []))
    size = sum(path.stat().st_size for path in args.output_dir.rglob("*") if path.is_file())
    if size > LARGEST:
        raise ValueError(f"The files must have {LARGEST} bytes at most, got {size}. Shrink them.")
    print(f"Wrote {args.output_dir}, {size / 1e6:.2f} MB.")  # noqa: T201


def lawm_hf_command(*words: str | Path) -> None:
    """Run a recipe in a process of its own."""
    subprocess.run([sys.executable, "-m", "lawm_hf.cli", *map(str, words)], check=True)


def pack(run: Path, folder: Path) -> None:
    """Copy the results of a run: no state to resume from, no code."""
    for part in PARTS:
        for path in (path for kind in KEPT for path in (run / part).glob(kind)):
            target = folder / part / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            write(path, target, run.name)


def write(path: Path, target: Path, run: str) -> None:
    """Write a file of a run for everybody: small, and without this machine's folders."""
    if path.suffix == ".safetensors":
        weights = {name: halved(value) for name, value in load_file(path).items()}
        save_file(weights, target, metadata={"format": "pt"})
    elif path.suffix == ".png":  # less than half of the bytes, and nobody sees it
        Image.open(path).convert("RGB").quantize(96).save(target, optimize=True)
    elif path.name in ("config.json", "processor_config.json"):
        config = json.loads(path.read_text())
        without_code(config)
        target.write_text(json.dumps(config, indent=2) + "\n")
    elif path.name == "args.yaml":
        told = {**yaml.safe_load(path.read_text()), "output_dir": f"outputs/{run}"}
        told |= {"pretrained": "outputs/pretrain"} if told.get("pretrained") else {}
        target.write_text(yaml.safe_dump(told, sort_keys=False))
    elif path.name == "README.md":
        text = path.read_text().replace("import torch\n", "import torch\n\nimport lawm_hf\n", 1)
        text = text.replace(f'from_pretrained("{run}"', f"from_pretrained(lawm_hf.{NAMES[run]}")
        target.write_text(text + NOTE)
    else:
        shutil.copyfile(path, target)


def halved(weights: torch.Tensor) -> torch.Tensor:
    """In half precision, if they are floats."""
    if not weights.is_floating_point():
        return weights
    half = weights.half()
    if not half.isfinite().all():
        raise ValueError(f"Weights must be below 65504 to be halved, got {weights.abs().max()}.")
    return half


def without_code(config: dict) -> None:
    """Forget the files of code that lie beside a run, here and in parts; the package has them."""
    config.pop("auto_map", None)
    for part in config.values():
        if isinstance(part, dict):
            without_code(part)


if __name__ == "__main__":
    run_command(main, SmallArgs)
