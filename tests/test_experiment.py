# SPDX-License-Identifier: Apache-2.0
"""Experiments: plans, sharing, interruption, tables and reports."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
from data_fixtures import build_all
from test_recipes import recipe

from lawm_hf.arguments import parse_args
from lawm_hf.commands import flags_of
from lawm_hf.data import open_source
from lawm_hf.evaluation.results import EpisodeResult, write_results
from lawm_hf.experiments import plan as plan_module
from lawm_hf.experiments.plan import Plan, Stage, run_stages
from lawm_hf.experiments.report import write_report
from lawm_hf.experiments.statistics import PublishedRate
from lawm_hf.experiments.table import episode_table, read_tables, success_matrix
from lawm_hf.writing.atomic import lock_folder, run_lock
from lawm_hf.writing.executors import Executor

ROOT = Path(__file__).parent.parent
PLANS = sorted((ROOT / "recipes/configs/experiments").glob("*.yaml"))
PUBLISHED = sorted((ROOT / "docs").glob("*/plan.yaml"))  # beside their reports


def make_plan(folder: Path, **changes) -> Plan:
    options = {
        "pretraining": {"scratch": {}, "latent": {"steps": 7}},
        "policies": {"baku": {}},
        "benchmarks": {"reach": {}},
        "pretrain": {},
        "finetune": {"source": "tabletop:reach,seed=20{seed}000,demonstrations={demos}"},
        "evaluate": {"suite": "reach"},
        "demonstrations": [5, 10],
        "seeds": [0, 1],
        "stages_dir": str(folder),
    }
    return Plan(**{**options, **changes})


def stages(runs):
    return {stage.folder for run in runs for stage in run.stages}


def finish(stage: Stage, success=lambda seed: True, episodes: int = 4):
    """Leave what a finished stage leaves."""
    stage.folder.mkdir(parents=True, exist_ok=True)
    if stage.recipe == "evaluate":
        write_results(
            [EpisodeResult(s, "go", success(s), 9, "reach") for s in range(episodes)], stage.folder
        )
    else:
        result = stage.folder / plan_module._RESULT[stage.recipe]
        result.parent.mkdir(exist_ok=True)
        result.write_text("{}")
    (stage.folder / "cpu_seconds.json").write_text("3.5")


def test_pretraining_is_computed_once_for_all_demonstration_counts(tmp_path):
    runs = make_plan(tmp_path).runs()
    assert len(runs) == 8
    names = [folder.name.split("_")[0] for folder in stages(runs)]
    assert (names.count("pretrain"), names.count("finetune"), names.count("evaluate")) == (2, 8, 8)


def test_plans_share_stages_whose_flags_are_the_same(tmp_path):
    other = make_plan(tmp_path, demonstrations=[10, 20], seeds=[1])
    shared = stages(make_plan(tmp_path).runs()) & stages(other.runs())
    assert len(shared) == 1 + 2 + 2  # pretraining of seed 1, and both methods at 10


def test_a_run_is_told_its_demonstrations_seed_and_pretraining(tmp_path):
    run = next(r for r in make_plan(tmp_path).runs() if r.pretraining == "latent" and r.seed == 1)
    first, second, third = run.stages
    assert second.flags["source"] == "tabletop:reach,seed=201000,demonstrations=5"
    assert second.flags["pretrained"] == str(first.folder)
    assert third.flags["policy"] == str(second.folder)
    assert first.flags == {"steps": 7, "seed": 1}


def test_an_edited_configuration_file_is_another_stage(tmp_path):
    config = tmp_path / "a.yaml"
    plan = make_plan(tmp_path, pretraining={"latent": {"config": str(config)}}, seeds=[0])
    config.write_text("steps: 3")
    before = stages(plan.runs())
    assert before == stages(plan.runs())
    config.write_text("steps: 4")
    assert not before & stages(plan.runs())
    assert plan.runs()[0].stages[0].arguments()[0] == str(config)


def test_a_stage_from_scratch_says_so_against_its_configuration_file(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("pretrained: elsewhere")
    finetune = {"config": str(config)}
    plan = make_plan(tmp_path, pretraining={"scratch": {}}, finetune=finetune, seeds=[0])
    (run, *_) = plan.runs()
    assert parse_args(flags_of("finetune"), run.stages[0].arguments()).pretrained == ""


def test_grids_and_own_demonstration_counts_expand_into_variants(tmp_path):
    pretraining = {
        "scratch": {},
        "latent": {"grid": {"world_model_preset": ["1m", "12m"]}, "demonstrations": [10]},
        "sizes": {"grid": {"world_model_config": {"small": {"depth": 4}}}},
    }
    runs = make_plan(tmp_path, pretraining=pretraining, seeds=[0]).runs()
    cells = {(run.pretraining, run.demonstrations) for run in runs}
    assert cells == {
        *(("scratch", 5), ("scratch", 10), ("latent, 1m", 10), ("latent, 12m", 10)),
        *(("sizes, small", 5), ("sizes, small", 10)),
    }
    small = next(run for run in runs if run.pretraining == "sizes, small")
    assert "--world_model_config" in small.stages[0].arguments()
    assert '{"depth": 4}' in small.stages[0].arguments()


def test_from_scratch_a_policy_takes_its_model_flags_when_finetuned(tmp_path):
    policies = {"dp": {"model": {"policy_type": "diffusion"}, "finetune": {"ema_decay": 0.9}}}
    scratch, latent = make_plan(tmp_path, policies=policies, seeds=[0]).runs()[:2]
    assert scratch.stages[0].flags["policy_type"] == "diffusion"
    assert latent.stages[0].flags["policy_type"] == "diffusion"
    assert "policy_type" not in latent.stages[1].flags
    assert latent.stages[1].flags["ema_decay"] == 0.9


def test_stages_run_after_what_they_need_and_are_not_repeated(tmp_path, monkeypatch):
    order = []

    def run(stage, recipes):
        assert stage.needs is None or stage.needs.is_done
        order.append(stage.folder)
        finish(stage)

    monkeypatch.setattr(Stage, "run", run)
    runs = make_plan(tmp_path).runs()
    run_stages(runs[:3], Path(), Executor(tasks=2))
    run_stages(runs, Path(), Executor(tasks=3))
    assert sorted(order) == sorted(stages(runs))


def test_a_failing_stage_holds_up_only_what_needs_it(tmp_path, monkeypatch):
    runs = make_plan(tmp_path).runs()
    broken = next(stage for run in runs for stage in run.stages if stage.recipe == "pretrain")

    def run(stage, recipes):
        if stage == broken:
            raise RuntimeError("out of memory")
        finish(stage)

    monkeypatch.setattr(Stage, "run", run)
    with pytest.raises(RuntimeError, match="1 stages failed and 4 that need them were not begun"):
        run_stages(runs, Path(), Executor(tasks=2))
    done = {run.cell["pretraining"] for run in runs if run.stages[-1].is_done and run.seed == 0}
    assert done == {"scratch"}
    assert all(run.stages[-1].is_done for run in runs if run.seed == 1)


def test_a_process_that_fails_says_how_its_log_ends(tmp_path):
    (tmp_path / "finetune.py").write_text("raise SystemExit('no such data')")
    stage = Stage("finetune", {"seed": 0}, tmp_path / "out")
    with pytest.raises(RuntimeError, match="no such data"):
        stage.run(tmp_path)
    assert not stage.is_done


EXPERIMENT = """
import signal
import sys
from pathlib import Path
from lawm_hf.experiments.plan import Run, Stage, run_stages
from lawm_hf.writing.executors import Executor
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
stage = Stage("pretrain", {}, Path(sys.argv[1], "stage"))
run_stages([Run("b", "p", "t", 5, 0, (stage,))], Path(sys.argv[1]), Executor())
"""
# A stage with a worker: both write their ids, and would stay for minutes.
STAYS = """
import os, pathlib, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
pathlib.Path(__file__).with_name("ids").write_text(f"{os.getpid()} {worker.pid}\\n")
time.sleep(300)
"""


def is_alive(process_id: int) -> bool:
    try:
        stat = Path("/proc", str(process_id), "stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_until(condition, patience_s: float = 60) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to end a child with its parent")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stage_ends_with_its_experiment(tmp_path, number):
    (tmp_path / "pretrain.py").write_text(STAYS)
    ids = tmp_path / "ids"
    first = subprocess.Popen(
        [sys.executable, "-c", EXPERIMENT, str(tmp_path)], stderr=subprocess.DEVNULL
    )
    wait_until(lambda: ids.exists() and ids.read_text().endswith("\n"))
    stage, worker = map(int, ids.read_text().split())
    with pytest.raises(BlockingIOError, match="one writer at a time"):
        lock_folder(tmp_path / "stage", ".stage.lock")
    first.send_signal(number)
    assert first.wait(timeout=60) != 0
    wait_until(lambda: not is_alive(stage))
    if number != signal.SIGKILL:
        wait_until(lambda: not is_alive(worker))
    elif is_alive(worker):
        os.kill(worker, signal.SIGKILL)
    assert not Stage("pretrain", {}, tmp_path / "stage").is_done
    with run_lock(tmp_path / "stage", ".stage.lock", patience_s=10):
        pass


def test_a_damaged_cost_is_named(tmp_path):
    (tmp_path / "cpu_seconds.json").write_text("")
    with pytest.raises(ValueError, match=r"cpu_seconds\.json must hold JSON"):
        _ = Stage("finetune", {}, tmp_path).cpu_seconds


def filled_table(tmp_path, **changes) -> pd.DataFrame:
    runs = make_plan(tmp_path / "stages", seeds=[0, 1, 2], **changes).runs()
    for run in runs:
        for stage in run.stages:
            if stage.recipe != "evaluate":
                finish(stage)
        limit = run.demonstrations + run.seed + (4 if run.pretraining == "latent" else 0)
        finish(run.stages[-1], lambda s, limit=limit: s < limit, episodes=20)
    return episode_table(runs)


def test_the_table_has_a_row_per_episode_and_pairs_runs_by_initial_state(tmp_path):
    table = filled_table(tmp_path)
    assert len(table) == 2 * 2 * 3 * 20
    assert set(table.pretrain_cpu_s[table.pretraining == "scratch"]) == {0.0}
    assert set(table.pretrain_cpu_s[table.pretraining == "latent"]) == {3.5}
    cell = table[(table.pretraining == "latent") & (table.demonstrations == 5)]
    wide = success_matrix(cell)
    assert wide.shape == (3, 20)
    assert wide.mean(axis=1).tolist() == [9 / 20, 10 / 20, 11 / 20]


def test_tables_of_shards_are_read_as_one_and_count_no_episode_twice(tmp_path):
    table = filled_table(tmp_path)
    folder = tmp_path / "out"
    folder.mkdir()
    table[:100].to_parquet(folder / "episodes_0_of_2.parquet")
    table[50:].to_parquet(folder / "episodes_1_of_2.parquet")
    assert len(read_tables(folder)) == len(table)
    with pytest.raises(FileNotFoundError, match="Run the plan first"):
        read_tables(tmp_path / "nothing")


def test_the_report_is_made_from_the_table_alone(tmp_path):
    table = filled_table(tmp_path)
    published = {
        "BAKU": [PublishedRate("scratch", 0.914, 900), PublishedRate("latent", 0.942, 900)]
    }
    text = write_report(table, tmp_path / "report", "E1", published=published).read_text()
    assert "| baku | reach | 5 | scratch | 30.0% |" in text
    assert "| baku | reach | 5 | latent | +20.0 |" in text
    assert "12 / 0 |" in text  # only one solves
    assert "| BAKU | latent | 94.2% | 900 | 92.5% – 95.6% |" in text
    assert "0.1 CPU hours" in text or "0.0 CPU hours" in text
    for name in ("curve_baku_reach.png", "cells_baku_reach.png"):
        assert f"({name})" in text
        assert (tmp_path / "report" / name).stat().st_size > 5000


def test_a_real_robots_trials_enter_the_table_by_hand(tmp_path):
    runs = make_plan(tmp_path, benchmarks={"arm": {"evaluate": False}}, seeds=[0]).runs()
    last = runs[0].stages[-1]
    assert last.recipe == "finetune"
    finish(last)
    assert episode_table(runs).empty
    line = asdict(EpisodeResult(3, "stack", True, 80))
    (last.folder / "episodes.jsonl").write_text(json.dumps(line) + "\n")
    table = episode_table(runs)
    assert table.is_success.tolist() == [True]
    assert table.benchmark.tolist() == ["arm"]


@pytest.mark.parametrize("path", PLANS + PUBLISHED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_a_committed_plan_holds_nothing_that_its_recipes_do_not_know(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    experiment = recipe("experiment")
    args = parse_args(experiment.ExperimentArgs, [str(path)])
    experiment.check(experiment.read_plan(args).runs(), args.reference, is_local=False)


def test_a_dry_run_counts_the_true_models_and_runs_nothing(tmp_path, capsys):
    experiment = recipe("experiment")
    args = experiment.ExperimentArgs(
        pretraining='{"scratch": {}, "latent": {"steps": 600}}',
        finetune='{"source": "lerobot:DIR"}',
        output_dir=str(tmp_path / "out"),
        stages_dir=str(tmp_path / "stages"),
        demonstrations=[25],
        seeds=[0, 1],
        dry_run=True,
    )
    experiment.main(args)
    said = capsys.readouterr().out
    assert "[10/10]" in said
    assert "frames (48, 11, 3, 32, 32)" in said
    assert "600 updates" in said
    assert "Missing: lerobot:DIR" in said
    assert not (tmp_path / "stages").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["e1_libero90", "e2_libero_suites", "e3_libero_long"])
def test_a_plan_of_the_paper_trains_on_fixtures(name, tmp_path, monkeypatch):
    """The committed plan, its true policies and configurations; other data, text and sizes."""
    root = Path(__file__).parent.parent
    monkeypatch.chdir(root)
    specs = build_all(tmp_path / "data")
    ssv2, bridge = specs["ssv2"], specs["lerobot_v3.0"]
    front = f"{bridge},views=front"  # the paper pretrains on one camera
    experiment = recipe("experiment")
    path = root / f"recipes/configs/experiments/{name}.yaml"
    plan = experiment.read_plan(parse_args(experiment.ExperimentArgs, [str(path)]))
    few = {"steps": 1, "batch_size": 2, "num_workers": 0, "mixed_precision": "no"}
    few |= {"text_encoder": "hashing", "save_every": 0, "warmup_steps": 1}
    for options in plan.policies.values():
        options["model"]["text_encoder"] = "hashing"
    for flags in plan.pretraining.values():
        if flags:
            flags.pop("grid", None)
            corpus = Path(flags["config"]).stem.removeprefix("pretrain_")
            sources = {"ssv2": [ssv2], "bridge": [front], "mixture": [ssv2, front]}[corpus]
            flags |= {**few, "sources": sources, "world_model_preset": "1m"}
    del few["text_encoder"]
    plan.benchmarks = dict([*plan.benchmarks.items()][:1])  # The others differ in their data.
    for options in plan.benchmarks.values():
        cameras = list(open_source(bridge).features.cameras)
        options["finetune"] |= {**few, "source": bridge, "views": cameras}
        options["evaluate"] = False
    plan.seeds, plan.stages_dir = [0], str(tmp_path / "stages")
    runs = plan.runs()
    run_stages(runs, root / "recipes", Executor(tasks=2))
    for run in runs:
        assert (run.stages[-1].folder / "model.safetensors").exists()
