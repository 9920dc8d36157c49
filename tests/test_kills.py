# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random times: a repeat ends with the same bytes, and does nothing done before again.

`LAWM_KILLS=200` for the figures in the documents; training has the same in `test_recipes`.
"""

import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from data_fixtures import build_bridge, build_folder
from test_labels import SIZES, save_run
from test_recipes import recipe

from lawm_hf import cli
from lawm_hf.arguments import parse_args
from lawm_hf.experiments.plan import _RESULT, Run, Stage, run_stages
from lawm_hf.models import BakuConfig, BakuPolicy, LAWMProcessor
from lawm_hf.writing.executors import Executor

KILLS = int(os.environ.get("LAWM_KILLS", "3"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks, and ends children with a parent"),
]
type Done = dict[str, object]


def start(job: Callable[[Path], None], folder: Path) -> int:
    """Do the job in a process of its own, that says what it could not; its id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    with Path(f"{folder}.error").open("w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        try:
            job(folder)
            status = 0
        except BaseException:  # SystemExit, too: the rest of pytest must not run twice.
            traceback.print_exc(file=said)
    os._exit(status)


def end(pid: int, folder: Path) -> bool:
    """Wait for the job; whether it was killed. It may end in no other way but well."""
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or status == 0, Path(f"{folder}.error").read_text()
    return os.WIFSIGNALED(status)


def content(folder: Path) -> dict[str, bytes]:
    """All files but hidden ones (notes, locks, what was left half done) and what was measured."""
    files = {p.relative_to(folder): p for p in folder.rglob("*") if p.is_file()}
    return {
        str(name): p.read_bytes()
        for name, p in files.items()
        if not any(part.startswith(".") for part in name.parts) and name.name != "cpu_seconds.json"
    }


def identity(path: Path) -> tuple[int, int]:
    """What changes when a file is written again, be it with the same bytes."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def kill_at_random(
    job: Callable[[Path], None], done: Callable[[Path], Done], folder: Path, per_run: int = 6
) -> None:
    """Compare killed and repeated jobs with one that was left alone.

    Args:
        job: What is done in a folder; a repeat goes on.
        done: What is finished there, by name, with a value that another try would change.
        folder: For the test.
        per_run: Tries, each killed, before the one that is left alone.
    """
    random, began = Random(0), time.monotonic()
    end(start(job, folder / "straight"), folder / "straight")
    length, want = time.monotonic() - began, content(folder / "straight")
    killed = kept = 0
    assert want
    for trial in range(10 * KILLS):
        cut, before = folder / f"cut_{trial}", {}
        for i in range(per_run + 1):
            pid = start(job, cut)
            if i < per_run:
                time.sleep(random.uniform(0, length) * random.random())  # a repeat is shorter
                os.kill(pid, signal.SIGKILL)
            killed += end(pid, cut)
            after = done(cut) if cut.exists() else {}
            assert before.items() <= after.items(), "what was done is lost, or was done again"
            before, kept = after, kept + len(after) * (i < per_run)
        assert content(cut) == want
        shutil.rmtree(cut)
        if killed >= KILLS:
            break
    print(f"{killed} kills at work, {kept} finished things met again, 0 losses")  # noqa: T201
    assert killed >= KILLS


@pytest.mark.parametrize(("kind", "tasks"), [("shards", 1), ("shards", 2), ("lerobot", 1)])
def test_kills_of_a_conversion_lose_no_part(kind, tasks, tmp_path):
    def job(out: Path) -> None:
        flags = ["--tasks", str(tasks), "--image_size", "64", "--clips_per_part", "2"]
        sys.argv = ["lawm-hf", "convert", scheme, str(raw), "--out", str(out), *flags]
        cli.main()

    def parts(out: Path) -> Done:
        notes = sorted(out.glob(".parts/0*.json"))
        return {note.stem: identity(out / path.format(note.stem)) for note in notes}

    scheme, build, path = {
        "shards": ("folder", build_folder, "train-{}.tar"),
        "lerobot": ("bridge", build_bridge, ".parts/{}.safetensors"),
    }[kind]
    raw = build(tmp_path / "raw", 8)
    kill_at_random(job, parts, tmp_path)


def test_kills_of_a_labelling_lose_no_part(tmp_path):
    def job(out: Path) -> None:
        flags = ["--source", f"folder:{raw}", "--image_size", "64", "--clips_per_part", "2"]
        sys.argv = ["lawm-hf", "label", str(run), "--out", str(out), *flags]
        cli.main()

    def parts(out: Path) -> Done:
        notes = sorted(out.glob(".parts/0*.json"))
        return {n.stem: identity(out / f".parts/{n.stem}.safetensors") for n in notes}

    raw = build_folder(tmp_path / "raw", 8)
    run = save_run(tmp_path / "run", BakuPolicy(BakuConfig(hidden_size=32, num_layers=1, **SIZES)))
    kill_at_random(job, parts, tmp_path)


def test_kills_of_the_tabletops_recorder_leave_a_whole_recording_or_none(tmp_path):
    recorder = pytest.importorskip("lawm_hf.envs.tabletop.recorder")

    def job(cache: Path) -> None:
        recorder.record_tabletop(
            "reach", 8, 1000, image_size=8, max_frames=6, cache_dir=cache, num_workers=1
        )

    def whole(cache: Path) -> Done:
        return {f.name: identity(f) for f in cache.iterdir() if not f.name.startswith(".")}

    kill_at_random(job, whole, tmp_path)


def save_policy(policy: Path) -> None:
    """A small policy for the tabletop, with random weights."""
    model = BakuPolicy(BakuConfig.from_preset("tabletop", hidden_size=32, num_layers=1))
    size = model.config.task_embed_size
    processor = LAWMProcessor(image_size=64, text_encoder="hashing", task_embed_size=size)
    numbers = {"min": -1.0, "max": 1.0, "mean": 0.0, "std": 1.0, "q01": -1.0, "q99": 1.0}
    sizes = (("state", 8), ("actions", 7))
    processor.set_statistics({k: {x: [v] * n for x, v in numbers.items()} for k, n in sizes})
    for part in (model, processor):
        part.save_pretrained(policy)


def test_kills_of_an_evaluation_lose_no_episode(tmp_path):
    pytest.importorskip("mujoco")
    policy = tmp_path / "policy"
    save_policy(policy)
    module = recipe("evaluate")

    def job(out: Path) -> None:
        flags = ["--policy", str(policy), "--output_dir", str(out), "--suite", "reach"]
        flags += ["--episodes", "4", "--lockstep", "1", "--resume", "true"]
        module.main(parse_args(module.EvaluateArgs, flags))

    def episodes(out: Path) -> Done:
        file = out / "episodes.jsonl"
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        whole = [json.loads(line) for line in lines if line.endswith(b"\n")]
        found = {str(e["seed"]): json.dumps(e) for e in whole}
        assert len(found) == len(whole), "an episode was played again"
        return found

    kill_at_random(job, episodes, tmp_path)


# A recipe of a stage: works for a moment and leaves its result.
STUB = """
import pathlib, sys, time
result = pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1], {result!r})
time.sleep(0.1)
result.parent.mkdir(parents=True, exist_ok=True)
result.write_text(result.name)
"""


def test_kills_of_an_experiment_lose_no_stage(tmp_path):
    for name, result in _RESULT.items():
        (tmp_path / f"{name}.py").write_text(STUB.format(result=result))

    def job(out: Path) -> None:
        runs = []
        for seed in range(2):
            stages: tuple[Stage, ...] = ()
            for name in _RESULT:
                folder, needs = out / f"{name}_{seed}", stages[-1] if stages else None
                stages += (Stage(name, {"seed": seed}, folder, needs),)
            runs.append(Run("baku", "latent", "reach", 5, seed, stages))
        run_stages(runs, tmp_path, Executor(tasks=2))

    def stages(out: Path) -> Done:
        marks = sorted(out.glob("*/cpu_seconds.json"))
        names = {mark: _RESULT[mark.parent.name.partition("_")[0]] for mark in marks}
        return {m.parent.name: (identity(m), identity(m.parent / r)) for m, r in names.items()}

    kill_at_random(job, stages, tmp_path)
