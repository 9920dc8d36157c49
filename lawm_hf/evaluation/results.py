# SPDX-License-Identifier: Apache-2.0
"""Results of an evaluation: one JSON line per episode as it ends, rates, videos of failures."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..metrics import success_rates
from ..writing.atomic import lock_folder, owns_folder, read_json, run_lock, write_text_atomic
from ..writing.video import VideoWriter


@dataclass(frozen=True)
class Trial:
    """An episode to play.

    Args:
        seed: Of `reset`; without an `init_state` it names the initial state.
        suite: Suite of a benchmark, for the record.
        task_index: Task of the suite, for the record.
        init_state: The benchmark's own initial state, passed on to `reset`.
    """

    seed: int
    suite: str = ""
    task_index: int | None = None
    init_state: int | None = None

    @property
    def options(self) -> dict[str, int] | None:
        """What `reset` is told besides the seed."""
        return None if self.init_state is None else {"init_state": self.init_state}


@dataclass
class EpisodeResult:
    """Outcome of one episode; the last four fields are those of its trial."""

    seed: int
    task: str
    is_success: bool
    length: int
    suite: str = ""
    task_index: int | None = None
    init_state: int | None = None

    @property
    def trial(self) -> Trial:
        """What was played."""
        return Trial(self.seed, self.suite, self.task_index, self.init_state)


def summarize(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Success rate with its 95 % interval, overall and by task: the metric `success_rate`."""
    summary = success_rates([r.is_success for r in results], [r.task for r in results])
    return summary | {"mean_length": float(np.mean([r.length for r in results] or [0.0]))}


def describe(name: str, summary: dict[str, Any]) -> str:
    """Lines of text: the rate of each task, if there are several, and of all."""
    per_task = summary["per_task"] if len(summary["per_task"]) > 1 else {}
    return "\n".join(
        f"{title}: {rate['success_rate']:.1%} of {rate['episodes']} episodes "
        f"(95 % interval {rate['interval_95'][0]:.1%} to {rate['interval_95'][1]:.1%})"
        for title, rate in (*per_task.items(), (name, summary))
    )


def start_results(folder: str | Path, settings: dict[str, Any], resume: bool) -> None:
    """Own the folder, with `episodes.jsonl` empty, or with `resume` as an earlier run left it.

    Nobody else can start there until `lawm_hf.writing.atomic.unlock_folder`, or this process ends.

    Args:
        folder: Where results go.
        settings: What decides the outcome of an episode; written to `evaluation.json`.
        resume: Keep the episodes that are there; a line cut off by a kill is dropped.

    Raises:
        ValueError: If those episodes were played with other settings.
        BlockingIOError: If another evaluation is at work there.
    """
    folder = Path(folder)
    if not (resume and owns_folder(folder)):
        lock_folder(folder)
    path, note = folder / "episodes.jsonl", folder / "evaluation.json"
    settings = json.loads(json.dumps(settings))
    results = read_results(folder) if resume else []
    found = read_json(note, dict) if results and note.exists() else settings
    # A setting that is off is the same as one that an older version did not know.
    changed = [k for k in sorted(found | settings) if (found.get(k) or 0) != (settings.get(k) or 0)]
    if changed:
        told = ", ".join(f"{k}={found.get(k)!r}" for k in changed)
        raise ValueError(
            f"{folder} holds episodes played with {told}. To resume, repeat that; "
            "else choose another `output_dir`, or leave `resume` out to replace them."
        )
    # In this order: never episodes of one evaluation beside the settings of another.
    write_text_atomic(path, "".join(_line(r) for r in results))
    write_text_atomic(note, json.dumps(settings, indent=2))


def append_result(result: EpisodeResult, folder: str | Path) -> None:
    """Add a line to `episodes.jsonl`; several processes may."""
    with (Path(folder) / "episodes.jsonl").open("a") as file:
        file.write(_line(result))
        file.flush()
        os.fsync(file.fileno())  # an episode may be minutes of simulation


def read_results(folder: str | Path) -> list[EpisodeResult]:
    """Episodes written so far, each once, without a last line that was cut off.

    Raises:
        ValueError: If another line is damaged, with its number.
    """
    path = Path(folder) / "episodes.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    results = {}
    for number, line in enumerate(lines, 1):
        if line.endswith(b"\n"):
            try:
                result = EpisodeResult(**json.loads(line))
                if result.is_success not in (True, False):  # by hand, of a robot
                    raise TypeError("`is_success` is true or false")
                results[result.trial] = result
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"Line {number} of {path} must be an episode, got {line[:80]!r} ({error}). "
                    "Delete the line and resume: the episode is played again."
                ) from error
    return list(results.values())


def missing_trials(trials: Sequence[Trial], folder: str | Path) -> list[Trial]:
    """Those that were not played yet."""
    done = {result.trial for result in read_results(folder)}
    return [trial for trial in trials if trial not in done]


def gather_shares(folder: str | Path, keep: bool = True) -> None:
    """Bring the episodes of `shares/*` together, or drop them; one that is at work is an error."""
    folder = Path(folder)
    for share in sorted(folder.glob("shares/[0-9]*/")):
        with run_lock(share):
            if not keep:
                continue
            known = {result.trial for result in read_results(folder)}
            for result in read_results(share):
                if result.trial not in known:
                    append_result(result, folder)
            for video in share.glob("videos/*.mp4"):
                (folder / "videos").mkdir(exist_ok=True)
                shutil.move(video, folder / "videos" / video.name)
    shutil.rmtree(folder / "shares", ignore_errors=True)


def write_results(results: Sequence[EpisodeResult], folder: str | Path) -> dict[str, Any]:
    """Write `episodes.jsonl` (one line each) and `summary.json`; return the summary.

    Raises:
        ValueError: If there are none.
    """
    if not results:
        raise ValueError(f"{folder} must get at least one episode, got none: play some.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    summary = summarize(results)
    write_text_atomic(folder / "episodes.jsonl", "".join(_line(r) for r in results))
    write_text_atomic(folder / "summary.json", json.dumps(summary, indent=2))
    return summary


class FailureVideos:
    """Keeps the frames of running episodes, and writes those of the first failures as mp4.

    Args:
        folder: Where the videos go.
        count: How many to write.
        fps: Frames per second.
    """

    def __init__(self, folder: str | Path, count: int, fps: float):
        self.folder, self.missing, self.fps = Path(folder), count, fps
        self._frames: dict[Trial, list[np.ndarray]] = {}

    def add_frame(self, trial: Trial, observation: dict[str, Any]) -> None:
        """Remember the views of one step, side by side."""
        if self.missing > 0:
            views = np.concatenate(list(observation["pixels"].values()), axis=1)
            self._frames.setdefault(trial, []).append(views)

    def end_episode(self, result: EpisodeResult) -> None:
        """Write the video if the episode failed; forget it otherwise."""
        frames = self._frames.pop(result.trial, [])
        if result.is_success or not frames or self.missing <= 0:
            return
        self.missing -= 1
        parts = (result.suite, result.task_index, result.init_state, result.seed)
        name = "_".join(str(part) for part in parts if part not in ("", None))
        self.folder.mkdir(parents=True, exist_ok=True)
        video = VideoWriter(str(self.folder / f"failure_{name}.mp4"), self.fps, crf=18)
        video.add(frames)
        video.close()


def _line(result: EpisodeResult) -> str:
    return json.dumps(asdict(result)) + "\n"
