# SPDX-License-Identifier: Apache-2.0
"""Tasks on this machine, on a stand-in for Slurm, on Ray: each done, done once, killed at will."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from data_fixtures import build_folder
from test_cli import refusal
from test_experiment import is_alive, make_plan, wait_until
from test_kills import save_policy
from test_recipes import recipe

from lawm_hf.arguments import parse_args
from lawm_hf.data import open_source
from lawm_hf.data.convert import Conversion, write_shards
from lawm_hf.experiments.plan import _RESULT, run_stages
from lawm_hf.writing.atomic import run_lock
from lawm_hf.writing.executors import Executor, Task

# `sbatch` that does all jobs of an array at once, and notes the script.
SBATCH = """#!/bin/bash
for last; do :; done
bash -n "$last" || exit 1
cat "$last" >> {folder}/scripts
echo "$@" >> {folder}/calls
jobs=$(sed -n 's/#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$last")
for i in $(seq 0 $jobs); do
  SLURM_ARRAY_TASK_ID=$i SLURM_NODELIST=node0 bash "$last" >> {folder}/output 2>&1
done
echo Submitted batch job 7
"""
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do [[ $1 == -n ]] && shift; shift; done
exec {python} -m datatrove.tools.launch_pickled_pipeline "${{@:2}}"
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder with the stand-ins; all of Slurm that datatrove calls."""
    pytest.importorskip("datatrove")
    pytest.importorskip("ray")
    folder = tmp_path / "slurm"
    folder.mkdir()
    scripts = {"sbatch": SBATCH, "srun": SRUN, "scontrol": "#!/bin/bash\necho node0\n"}
    for name, text in scripts.items():
        (folder / name).write_text(text.format(folder=folder, python=sys.executable))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def slurm_executor(folder: Path, tasks: int = 2) -> Executor:
    # The stand-ins stay ahead of the interpreter's folder.
    path = {"env_command": f"export PATH={folder}:$PATH"}
    return Executor("slurm", tasks, {"partition": "cpu", **path})


def writers(folder: Path, names: str) -> list[Task]:
    folder.mkdir(exist_ok=True)
    return [Task(name, partial(Path.write_text, folder / name, name)) for name in names]


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not any(x.startswith(".") for x in p.relative_to(folder).parts)
    }


@pytest.mark.parametrize("number", [1, 2])
def test_every_task_is_done_and_told_in_order(tmp_path, number):
    steps, told = [writers(tmp_path / "a", "xyz"), [], writers(tmp_path / "b", "uv")], []
    executor = Executor(tasks=number)
    executor.run(steps, tmp_path / "locks", on_end=lambda task: told.append(task.name))
    assert told == [*"xyzuv"]
    assert content(tmp_path / "a") == {name: name.encode() for name in "xyz"}


def test_a_process_that_is_killed_is_an_error_and_not_a_wait(tmp_path):
    tasks = [Task("lost", partial(exec, "import os; os.kill(os.getpid(), 9)"))]
    with pytest.raises(RuntimeError, match="was killed, for want of memory maybe"):
        Executor(tasks=2).run([[*tasks, *writers(tmp_path / "a", "x")]], tmp_path)


def test_a_task_waits_for_the_end_of_a_process_that_is_at_it(tmp_path):
    def hold() -> None:
        with run_lock(tmp_path, "x.lock"):
            holds.set()
            time.sleep(0.3)
            assert not (tmp_path / "a/x").exists()

    holds = threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    holds.wait()
    Executor().run([writers(tmp_path / "a", "x")], tmp_path)
    thread.join()
    assert (tmp_path / "a/x").exists()


@pytest.mark.parametrize("kind", ["slurm", "ray"])
def test_without_the_extra_a_cluster_is_refused_with_its_name(kind, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "datatrove", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    flags = ["--out", "y", "--executor", kind, "--executor_options", '{"partition": "cpu"}']
    assert "pip install 'lawm_hf[cluster]'" in refusal(
        ["convert", "folder", "x", *flags], monkeypatch, capsys
    )


def test_impossible_executors_are_refused():
    with pytest.raises(ValueError, match="`tasks` must be at least 1, got 0"):
        Executor(tasks=0)
    with pytest.raises(ValueError, match="options of the executor 'local', got 'partition'"):
        Executor(options={"partition": "cpu"})
    pytest.importorskip("datatrove")
    with pytest.raises(ValueError, match="told a partition"):
        Executor("slurm", 2)
    with pytest.raises(ValueError, match="Did you mean `partition`"):
        Executor("slurm", 2, {"partion": "cpu"})


def test_where_no_sbatch_is_the_script_is_written_and_named(tmp_path, monkeypatch):
    pytest.importorskip("datatrove")
    monkeypatch.setenv("PATH", "/nowhere")
    executor = Executor("slurm", 2, {"partition": "cpu", "gpus_per_task": 1})
    with pytest.raises(ValueError, match="where `sbatch` is") as error:
        executor.run([writers(tmp_path / "a", "xyz")], tmp_path / "locks")
    script = Path(str(error.value).rpartition("would be ")[2].rstrip("."))
    assert script.is_relative_to(tmp_path / "locks")
    told = script.read_text()
    for line in ("--array=0-1", "--partition=cpu", "--gpus=1", "--mem-per-cpu=4G"):
        assert f"#SBATCH {line}\n" in told
    assert "OMP_NUM_THREADS=1" in told
    with pytest.raises(ValueError, match="plain path"):
        executor.run([writers(tmp_path / "a", "x")], tmp_path / "my locks")


@pytest.mark.slow
def test_jobs_of_slurm_convert_to_the_same_bytes_and_the_repeat_finishes(tmp_path, slurm):
    source = open_source(f"folder:{build_folder(tmp_path / 'raw', 6)}")
    how = Conversion(image_size=64, clips_per_part=2)
    write_shards(source, tmp_path / "here", how)
    with pytest.raises(SystemExit) as ended:
        write_shards(source, tmp_path / "there", how, slurm_executor(slurm))
    assert ended.value.code == 0
    assert not (tmp_path / "there/index.jsonl").exists()
    write_shards(source, tmp_path / "there", how, slurm_executor(slurm))
    assert content(tmp_path / "there") == content(tmp_path / "here")
    assert len((slurm / "calls").read_text().splitlines()) == 1  # nothing was left to submit


@pytest.mark.slow
def test_stages_of_an_experiment_are_three_arrays_and_one_that_fails_holds_up_its_own(
    tmp_path, slurm
):
    code = "import pathlib, sys\nout = sys.argv[sys.argv.index('--output_dir') + 1]\n"
    code += "assert not ('pretrain' in out and '7' in sys.argv and '0' in sys.argv)\n"
    for name, result in _RESULT.items():
        work = f"file = pathlib.Path(out, {result!r})\nfile.parent.mkdir(exist_ok=True)\n"
        (tmp_path / f"{name}.py").write_text(f"{code}{work}file.write_text('{{}}')\n")
    runs = make_plan(tmp_path / "stages", demonstrations=[5]).runs()
    with pytest.raises(SystemExit):
        run_stages(runs, tmp_path, slurm_executor(slurm, 3))
    assert [run.stages[-1].is_done for run in runs] == [True, False, True, True]
    calls = (slurm / "calls").read_text().splitlines()
    assert ["--dependency=afterany:7" in call for call in calls] == [False, True, True]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "slurm"])
def test_an_evaluation_in_shares_has_the_episodes_of_one_process(tmp_path, kind, request):
    pytest.importorskip("mujoco")
    save_policy(tmp_path / "policy")
    module = recipe("evaluate")

    def evaluate(out: str, *more: str) -> dict[str, bytes]:
        flags = ["--policy", str(tmp_path / "policy"), "--output_dir", str(tmp_path / out)]
        flags += ["--suite", "reach", "--episodes", "5", "--lockstep", "1", "--videos", "2"]
        module.main(parse_args(module.EvaluateArgs, [*flags, *more]))
        return content(tmp_path / out)

    shares = ["--executor", kind, "--tasks", "2"]
    if kind == "slurm":
        told = slurm_executor(request.getfixturevalue("slurm")).options
        shares += ["--executor_options", json.dumps(told)]
        with pytest.raises(SystemExit):
            evaluate("shares", *shares)
        assert len([*(tmp_path / "shares/shares").glob("*/episodes.jsonl")]) == 2
    found = evaluate("shares", *shares, "--resume")
    want = evaluate("alone")
    for name in ("episodes.jsonl", "summary.json", "evaluation.json"):
        assert found[name] == want[name]
    assert len([name for name in found if name.endswith(".mp4")]) == 2
    assert not (tmp_path / "shares/shares").exists()


# A command as a user starts it: tasks of a second each; the first says its number.
RAY = """
import sys
from functools import partial
from pathlib import Path
from lawm_hf.writing.executors import Executor, Task
out = Path(sys.argv[1])
code = '''
import os, time
from pathlib import Path
path = Path({path!r})
if not path.exists():
    with open({begun!r}, "a") as file: file.write(f"{{os.getpid()}} {{os.getppid()}}\\\\n")
    time.sleep(1)
    path.write_text(path.name)
'''
begun = str(out / "begun")
tasks = [Task(n, partial(exec, code.format(path=str(out / n), begun=begun))) for n in "abcdef"]
Executor("ray", 2, {"mem_per_cpu_gb": 0.1}).run([tasks], out / ".tasks")
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["the task's process", "Ray's process"])
def test_ray_finishes_when_a_process_was_killed_or_the_command_is_repeated(tmp_path, victim):
    pytest.importorskip("ray")
    pytest.importorskip("datatrove")
    command = [sys.executable, "-c", RAY, str(tmp_path)]
    said = (tmp_path / ".said").open("w")
    first = subprocess.Popen(command, stdout=said, stderr=said)
    begun = tmp_path / "begun"
    wait_until(lambda: begun.exists() and begun.read_text().endswith("\n"), patience_s=300)
    task, ours = map(int, begun.read_text().splitlines()[0].split())
    parent = int(Path(f"/proc/{ours}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(task if victim == "the task's process" else parent, signal.SIGKILL)
    first.wait(timeout=300)
    wait_until(lambda: not is_alive(task))
    if victim == "the task's process":
        assert first.returncode != 0
        assert "was killed" in (tmp_path / ".said").read_text()
        subprocess.run(command, stdout=said, stderr=said, check=True, timeout=300)
    assert first.returncode == 0 or victim == "the task's process"
    assert {name: (tmp_path / name).read_text() for name in "abcdef"} == {n: n for n in "abcdef"}
    assert len(begun.read_text().splitlines()) <= 8  # what was done is not done again


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which process plays")
def test_an_evaluation_on_ray_whose_process_is_killed_has_the_episodes_of_one(tmp_path):
    pytest.importorskip("mujoco")
    pytest.importorskip("ray")
    pytest.importorskip("datatrove")
    save_policy(tmp_path / "policy")
    script = Path(__file__).parents[1] / "recipes/evaluate.py"
    command = [sys.executable, script, "--policy", tmp_path / "policy", "--suite", "reach"]
    command += ["--episodes", "6", "--lockstep", "1", "--videos", "2", "--resume", "true"]
    ray = ["--executor", "ray", "--tasks", "2", "--executor_options", '{"mem_per_cpu_gb": 0.1}']
    with (tmp_path / "said").open("w") as said:
        told = {"stdout": said, "stderr": said}
        subprocess.run([*command, "--output_dir", tmp_path / "alone"], check=True, **told)
        shares = [*command, "--output_dir", tmp_path / "shares", *ray]
        first = subprocess.Popen(shares, **told)
        played = tmp_path / "shares/shares/0000/episodes.jsonl"
        wait_until(lambda: played.is_file() and played.read_text().count("\n") == 1, 300)
        player = (tmp_path / "shares/shares/0000.lock").read_text().split()[0]
        os.kill(int(player), signal.SIGKILL)
        assert first.wait(timeout=300) != 0
        assert "was killed" in (tmp_path / "said").read_text()
        done = sum(len(p.read_text().splitlines()) for p in played.parent.parent.glob("*/*.jsonl"))
        assert 1 <= done < 6
        subprocess.run(shares, check=True, timeout=300, **told)
    found, want = content(tmp_path / "shares"), content(tmp_path / "alone")
    for name in ("episodes.jsonl", "summary.json", "evaluation.json"):
        assert found[name] == want[name]


# A parent whose worker says its number, and would wait for more for ever.
WORKER = """
import os, time
from lawm_hf.writing.executors import _pool
pool = _pool(1)
print(pool.submit(os.getpid).result(), flush=True)
time.sleep(300)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_command_leaves_no_worker_behind():
    parent = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE)
    worker = int(parent.stdout.readline())
    assert is_alive(worker)
    parent.kill()
    parent.communicate()
    wait_until(lambda: not is_alive(worker))
