# SPDX-License-Identifier: Apache-2.0
"""Several processes train what one would: DDP and FSDP2, on CPUs, by the recipes as shipped."""

import functools
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import processes
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from lawm_hf import LAWMForPretraining, LAWMPolicy
from lawm_hf.training import TrainingArgs, find_checkpoints, make_accelerator
from lawm_hf.training.throughput import Throughput

DDP = ("--multi_gpu",)
FSDP = ("--config_file", str(processes.FSDP))
KINDS = {"ddp": DDP, "fsdp": FSDP}
GLOBAL_BATCH = 8
PRETRAIN = {
    "sources": ["tabletop:reach,episodes=16,actions=false,views=front,num_workers=1"],
    "eval_source": "none",
    "policy_config": '{"hidden_size": 32, "num_layers": 1}',
    "world_model_config": '{"deter_size": 64, "hidden_size": 16, "depth": 8, "num_blocks": 8, '
    '"num_decoded_steps": null}',  # those drawn would be others in each process
}
FINETUNE = {
    "source": "tabletop:reach,episodes=16,seed=200000,num_workers=1",
    "policy_config": '{"hidden_size": 32, "num_layers": 1}',
    "augment": False,
    "ema_decay": 0.9,
    "focus_steps": 1,
}
OPTIONS = {"pretrain": PRETRAIN, "finetune": FINETUNE}


def recipe(name: str, folder: Path, interrupt_at: int | None = None, **options) -> None:
    """Run a recipe's `main`, and maybe interrupt it after a checkpoint."""
    module = importlib.import_module(f"lawm_hf.recipes.{name}")
    save, timed, put_together = module.save_checkpoint, Throughput.timed, module.whole_model
    seen = (folder / f"seen_{os.environ.get('RANK', 0)}.jsonl").open("a")

    def save_then_interrupt(accelerator, output_dir, step, loader):
        save(accelerator, output_dir, step, loader)
        if step == interrupt_at:
            raise KeyboardInterrupt

    def whole(accelerator, model):
        is_sharded = all(isinstance(p, DTensor) for p in model.parameters())
        assert is_sharded == ("ACCELERATE_USE_FSDP" in os.environ)
        return put_together(accelerator, model)

    def note_samples(throughput, batches):
        for raw in timed(throughput, batches):
            print(json.dumps(raw["index"].tolist()), file=seen, flush=True)
            yield raw

    small = {"steps": 3, "warmup_steps": 1, "log_every": 1} | OPTIONS[name]
    arguments = getattr(module, f"{name.title()}Args")
    with (
        mock.patch.object(module, "save_checkpoint", save_then_interrupt),
        mock.patch.object(Throughput, "timed", note_samples),
        mock.patch.object(module, "whole_model", whole),
    ):
        module.main(arguments(output_dir=str(folder), **small | options))


def read_samples(folder: Path, number: int) -> list[set[tuple[int, ...]]]:
    """The samples of each micro-batch that a run has taken, over its processes."""
    logs = [(folder / f"seen_{rank}.jsonl").read_text().splitlines() for rank in range(number)]
    return [
        sorted(tuple(sample) for part in parts for sample in json.loads(part))
        for parts in zip(*logs, strict=True)
    ]


def without_noise(function) -> None:
    """Call it so that processes may differ in nothing.

    No noise, which each draws for itself; and no update from a gradient that is all rounding, to
    which Adam gives its full length.
    """

    def half(*shape, device=None):
        return torch.full(shape[0] if isinstance(shape[0], tuple) else shape, 0.5, device=device)

    steady = functools.partial(torch.optim.AdamW, eps=1e-3)
    noise = mock.patch("torch.rand", half), mock.patch("torch.randn", half)
    with noise[0], noise[1], mock.patch("torch.optim.AdamW", steady):
        function()


def train(name: str, folder: Path, number: int, flags: tuple[str, ...] = (), **options) -> Path:
    """Train with a global batch of 8, in one process or several; the folder."""
    folder.mkdir(exist_ok=True)
    micro = GLOBAL_BATCH // number // options.get("gradient_accumulation_steps", 1)
    go = functools.partial(recipe, name, folder, batch_size=micro, **options)
    processes.run(functools.partial(without_noise, go), number, folder / "logs", flags)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = [*folder.glob("*.safetensors"), *folder.glob("*/model.safetensors")]
    files = [file for file in files if not file.parent.name.startswith("step_")]
    return {f"{f.relative_to(folder)} {k}": v for f in files for k, v in load_file(f).items()}


def assert_same(ours: Path, theirs: Path, tolerance: float = 1e-5) -> None:
    a, b = weights(ours), weights(theirs)
    assert a.keys() == b.keys()
    assert a
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=0, atol=tolerance, msg=name)
    for line, other in zip(processes.log_lines(ours), processes.log_lines(theirs), strict=True):
        for key in line.keys() & {"loss", "reconstruction"}:
            assert line[key] == pytest.approx(other[key], rel=tolerance), key
        for key in line.keys() & {"grad_policy", "grad_world_model"}:
            assert line[key] == pytest.approx(other[key], rel=10 * tolerance), key


def assert_loads(folder: Path, name: str) -> None:
    kind = LAWMForPretraining if name == "pretrain" else LAWMPolicy
    kind.from_pretrained(folder)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Runs of one process by their options, each made once."""
    made = {}

    def get(name: str, **options) -> Path:
        key = json.dumps([name, options])
        if key not in made:
            made[key] = train(name, tmp_path_factory.mktemp("one"), 1, **options)
        return made[key]

    return get


def test_two_sharded_processes_train_as_one_and_their_folder_loads(one, tmp_path):
    two = train("pretrain", tmp_path, 2, FSDP, mixed_precision="no")
    assert_same(two, one("pretrain"))
    assert_loads(two, "pretrain")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("name", OPTIONS)
def test_two_processes_train_as_one(one, tmp_path, name, accumulation, kind):
    options = {"gradient_accumulation_steps": accumulation, "mixed_precision": "no"}
    two = train(name, tmp_path, 2, KINDS[kind], **options)
    assert_same(two, one(name, **options))
    assert_loads(two, name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world_model", ["frame_diffusion", "features"])
def test_two_processes_train_the_world_models_beside_as_one(one, tmp_path, world_model, kind):
    small = '{"hidden_size": 16, "num_layers": 1, "num_decoded_steps": null}'
    options = {"world_model_type": world_model, "world_model_config": small}
    options["mixed_precision"] = "no"
    two = train("pretrain", tmp_path, 2, KINDS[kind], **options)
    assert_same(two, one("pretrain", **options))
    assert_loads(two, "pretrain")


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_sharded_processes_in_bfloat16_are_those_that_are_not_sharded(one, tmp_path, name):
    """Half of a batch is rounded otherwise than the whole: one process is near them only."""
    options = {"mixed_precision": "bf16"}
    ddp, fsdp = (train(name, tmp_path / k, 2, KINDS[k], **options) for k in KINDS)
    assert_same(fsdp, ddp)
    assert_same(fsdp, one(name, **options), tolerance=1e-2)
    saved = [tensor.dtype for tensor in weights(fsdp).values()]
    assert {*saved} == {torch.float32}


def interrupted(name: str, folder: Path, at: int, flags: tuple[str, ...], **options) -> None:
    """Train by two processes and interrupt both after the checkpoint of an update."""
    folder.mkdir(exist_ok=True)
    go = functools.partial(recipe, name, folder, at, batch_size=4, save_every=1, **options)
    with pytest.raises(AssertionError, match="KeyboardInterrupt"):
        processes.run(go, 2, folder / "logs", flags)
    assert [f.name for f in find_checkpoints(folder)] == [f"step_{at:06d}"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPTIONS)
def test_two_processes_resume_to_the_bit(tmp_path, name, kind):
    flags, options = KINDS[kind], {"steps": 4, "mixed_precision": "no"}
    for folder in (tmp_path / "straight", tmp_path / "cut"):
        folder.mkdir()
    straight = functools.partial(recipe, name, tmp_path / "straight", batch_size=4, **options)
    processes.run(straight, 2, tmp_path, flags)
    interrupted(name, tmp_path / "cut", 2, flags, **options)
    options |= {"batch_size": 4, "resume": True}
    processes.run(functools.partial(recipe, name, tmp_path / "cut", **options), 2, tmp_path, flags)
    assert_same(tmp_path / "cut", tmp_path / "straight", tolerance=0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("name", OPTIONS)
def test_killed_processes_go_on_with_the_very_samples_in_any_number(tmp_path, name, number):
    options = {"steps": 6, "save_every": 1}
    for folder in (tmp_path / "straight", tmp_path / "cut"):
        folder.mkdir()
    go = functools.partial(recipe, name, tmp_path / "straight", batch_size=8, **options)
    processes.run(go, 1, tmp_path)

    go = functools.partial(recipe, name, tmp_path / "cut", batch_size=4, **options)
    pids = processes.start(go, 2, tmp_path, DDP)
    while not (done := find_checkpoints(tmp_path / "cut")) or done[-1].name < "step_000002":
        time.sleep(0.001)
        assert os.waitpid(-1, os.WNOHANG)[0] == 0, (tmp_path / "log_0.txt").read_text()[-2000:]
    processes.kill(pids)
    assert all(os.WIFSIGNALED(os.waitpid(pid, 0)[1]) for pid in pids), "they had ended before"
    first = int(find_checkpoints(tmp_path / "cut")[-1].name[5:])
    assert 2 <= first < 6

    want = read_samples(tmp_path / "straight", 1)
    for log in (tmp_path / "cut").glob("seen_*"):
        log.unlink()
    options |= {"batch_size": GLOBAL_BATCH // number, "resume": True}
    go = functools.partial(recipe, name, tmp_path / "cut", **options)
    processes.run(go, number, tmp_path, DDP if number > 1 else ())
    assert read_samples(tmp_path / "cut", number) == want[first:]
    assert len({str(samples) for samples in want}) == 6  # or the test would say nothing


@pytest.mark.slow
def test_two_processes_evaluate_to_the_result_of_one(one, tmp_path):
    """Of a policy without noise, that is; with noise, `--lockstep 1` makes an episode its own."""
    module = importlib.import_module("lawm_hf.recipes.evaluate")
    policy, played = str(one("finetune")), []
    for number in (1, 2):
        folder = tmp_path / str(number)
        args = module.EvaluateArgs(policy=policy, output_dir=str(folder), episodes=6)
        processes.run(functools.partial(module.main, args), number, tmp_path, DDP * (number > 1))
        lines = (folder / "episodes.jsonl").read_text().splitlines()
        episodes = sorted((json.loads(line) for line in lines), key=lambda e: e["seed"])
        played.append((episodes, json.loads((folder / "summary.json").read_text())))
    assert played[0] == played[1]
    assert len(played[0][0]) == 6


def test_machines_that_do_not_share_the_output_folder_are_refused(tmp_path):
    def begin():
        os.environ["LOCAL_WORLD_SIZE"] = "1"
        time.sleep = lambda seconds: None
        make_accelerator(TrainingArgs(output_dir=str(tmp_path / os.environ["RANK"])))

    with pytest.raises(AssertionError, match="all machines share"):
        processes.run(begin, 2, tmp_path, DDP)


@pytest.mark.slow
def test_two_machines_meet_and_train(tmp_path):
    """Two launchers, as on two machines; `docs/performance.md` has the command."""
    script = Path(__file__).parent.parent / "recipes" / "pretrain.py"
    options = {"steps": 2, "batch_size": 4, "output_dir": tmp_path / "run", "log_every": 1}
    options |= {"eval_source": "none", "sources": PRETRAIN["sources"][0]}
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    place = ["--main_process_ip", "127.0.0.1", "--main_process_port", str(processes.free_port())]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", *place]
    launch += ["--num_machines", "2", "--num_processes", "2", "--machine_rank"]
    started = [subprocess.Popen([*launch, str(rank), str(script), *flags]) for rank in (0, 1)]
    assert [process.wait(timeout=600) for process in started] == [0, 0]
    assert [line["step"] for line in processes.log_lines(tmp_path / "run")] == [1, 2]
    record = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert record["hardware"]["num_processes"] == 2
    assert_loads(tmp_path / "run", "pretrain")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_one_of_two_processes_reports_on_what_both_have_trained(tmp_path, kind):
    source = {"sources": [PRETRAIN["sources"][0].replace("16", "40")], "eval_source": "auto"}
    options = source | {"batch_size": 4, "report_every": 1, "steps": 2, "mixed_precision": "no"}
    processes.run(
        functools.partial(recipe, "pretrain", tmp_path, **options), 2, tmp_path, KINDS[kind]
    )
    assert json.loads((tmp_path / "health.json").read_text())
    assert {f.name for f in tmp_path.glob("strip*.png")} == {"strip.png", "strip_000001.png"}
