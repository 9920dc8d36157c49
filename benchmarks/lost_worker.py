# SPDX-License-Identifier: Apache-2.0
"""What becomes of four tasks by two processes when something is killed, ours beside datatrove's.

    python benchmarks/lost_worker.py  # needs datatrove: pip install -e '.[cluster]'

Three cases: a worker is killed, a task fails, the command itself is killed. A JSON line each: the
command's status ("none": it had not ended after 30 s), how many tasks were done and begun, and how
many processes were still at work a second after.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

PATIENCE_S = 30


def work(folder: str, case: str, rank: int) -> None:
    """A task of four seconds; the first fails after one, if that is the case."""
    Path(folder, f"{rank}.begun").write_text(str(os.getpid()))
    time.sleep(1)
    if case == "a task fails" and rank == 0:
        raise RuntimeError("no")
    time.sleep(3)
    Path(folder, f"{rank}.done").write_text("")


def command(folder: str, case: str, whose: str) -> None:
    """The tasks, by one of the two."""
    import lost_worker  # By its name: workers do not know this file as `__main__`.

    call = partial(lost_worker.work, folder, case)
    if whose == "ours":
        from lawm_hf.writing.executors import Executor, Task

        tasks = [Task(str(rank), partial(call, rank)) for rank in range(4)]
        Executor(tasks=2).run([tasks], folder)
    else:
        from datatrove.executor import LocalPipelineExecutor

        pipeline = [partial(lost_worker.adapt, call)]
        LocalPipelineExecutor(pipeline, tasks=4, workers=2, logging_dir=f"{folder}/log").run()


def adapt(call, data, rank, world_size) -> None:
    """A task as datatrove calls it."""
    call(rank)


def is_alive(process_id: int) -> bool:
    """Whether a process is there and is no zombie."""
    stat = Path(f"/proc/{process_id}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def measure(case: str, whose: str) -> None:
    """Run one case and say what became of it."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [sys.executable, __file__, folder, case, whose]
        with Path(folder, "said").open("w") as said:
            process = subprocess.Popen(arguments, stdout=said, stderr=said, start_new_session=True)
        first = Path(folder, "0.begun")
        while not (first.exists() and first.read_text()):
            time.sleep(0.05)
        victims = {"a worker is killed": int(first.read_text()), "it is killed": process.pid}
        if case in victims:
            os.kill(victims[case], signal.SIGKILL)
        try:
            status = process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            status = "none"
        time.sleep(1)
        begun = [int(path.read_text()) for path in Path(folder).glob("*.begun")]
        alive = len({worker for worker in begun if is_alive(worker)})
        done = len([*Path(folder).glob("*.done")])
        about = {"status": status, "done": done, "begun": len(begun), "still at work": alive}
        print(json.dumps({"case": case, "whose": whose, **about}), flush=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        command(*sys.argv[1:])
    else:
        for case in ("a worker is killed", "a task fails", "it is killed"):
            for whose in ("datatrove's", "ours"):
                measure(case, whose)
