# SPDX-License-Identifier: Apache-2.0
"""Record the scripted expert in LIBERO as a LeRobot v3.0 dataset; an interrupted run continues."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ...writing.atomic import read_json, run_lock, write_text_atomic
from ...writing.episode import Episode, load_episodes, save_episodes
from ...writing.lerobot import LeRobotWriter
from ..tabletop.recorder import lerobot_features
from .env import CONTROL_HZ, VIEWS, LiberoEnv

_NOISE_MEMORY = 0.7  # Of the AR(1) noise on executed actions: pushes last a few steps.
_NOISY = np.array([1, 1, 1, 0, 0, 0.3, 0])
_OFFSET = 0.01  # Metres; largest shift of the point above the thing where the expert stops first.


@dataclass(frozen=True)
class _Job:
    """What decides the content of a recording, but for the number of episodes."""

    suite: str
    first_init_state: int
    image_size: int
    noise: float
    fast_rendering: bool


def record_libero(
    folder: str | Path,
    suite: str = "libero_object",
    tasks: Sequence[int] = (0, 1),
    episodes: int = 25,
    first_init_state: int = 20,
    image_size: int = 128,
    noise: float = 0.2,
    fast_rendering: bool = False,
) -> Path:
    """Record successful expert episodes; one call continues where another was interrupted.

    The expert's action is the label; what is executed is the label plus noise, so that the data
    show how to come back to the path. Initial states below `first_init_state` stay unseen for
    evaluation. `meta/libero_truth.parquet` names each episode's `init_state`.

    Args:
        folder: The dataset, made here. Episodes are kept in `<folder>/.parts` until all are there.
        suite: `"libero_object"`: the expert knows no other.
        tasks: Indices of the tasks.
        episodes: Successful episodes of each task.
        first_init_state: First of the benchmark's 50 initial states to use; each is used once.
        image_size: Side of the square pictures, in pixels.
        noise: Each episode draws the standard deviation of its noise from [0, noise], in units of
            action.
        fast_rendering: See `LiberoEnv`; evaluate with the same value.

    Raises:
        FileExistsError: If `folder` is a finished dataset.
        ValueError: If `folder` holds episodes recorded with other arguments.
        BlockingIOError: If another process records there.
        RuntimeError: If the initial states run out.
    """
    folder, job = Path(folder), _Job(suite, first_init_state, image_size, noise, fast_rendering)
    if (folder / "meta").exists():
        raise FileExistsError(f"{folder} is a finished dataset. Choose another folder.")
    parts = folder / ".parts"
    with run_lock(parts):
        _check_job(parts, job)
        return _record(folder, job, tasks, episodes)


def _record(folder: Path, job: _Job, tasks: Sequence[int], episodes: int) -> Path:
    """Record what is missing, and put the dataset together."""
    parts, names = folder / ".parts", {}
    with tqdm(total=len(tasks) * episodes, desc=f"recording {job.suite}", unit="episode") as bar:
        for task in tasks:
            done = 0
            for episode in _successes(job, task, parts, episodes):
                names[episode.task], done = None, done + 1
                bar.update()
                bar.set_postfix(task=task, frames=len(episode.vectors["action"]))
            if done < episodes:
                raise RuntimeError(
                    f"The initial states from {job.first_init_state} on gave {done} of {episodes} "
                    f"episodes of task {task}. Lower `episodes`, `first_init_state` or `noise`."
                )
    root = parts / "dataset"
    shutil.rmtree(root, ignore_errors=True)
    writer = LeRobotWriter(
        root, lerobot_features(VIEWS, job.image_size), names, CONTROL_HZ, "libero"
    )
    for task in tasks:
        for path, _ in zip(_part_paths(parts, task), range(episodes), strict=False):
            writer.add(*load_episodes(path))
    writer.close()
    for name in ("data", "meta"):
        (root / name).rename(folder / name)
    shutil.rmtree(parts)
    return folder


def _check_job(parts: Path, job: _Job) -> None:
    path, wanted = parts / "arguments.json", asdict(job)
    if path.exists() and (found := read_json(path, dict)) != wanted:
        changed = [f"{k}={found.get(k)!r}" for k, v in wanted.items() if found.get(k) != v]
        raise ValueError(
            f"{parts.parent} holds episodes recorded with {', '.join(changed)}. Repeat that, or "
            "choose another folder."
        )
    parts.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, json.dumps(wanted))


def _part_paths(parts: Path, task: int) -> list[Path]:
    return sorted(parts.glob(f"{task:02d}_*.safetensors"))


def _successes(job: _Job, task: int, parts: Path, wanted: int) -> Iterator[Episode]:
    """Up to `wanted` successful episodes of one task, read again if they were recorded before."""
    env, found = None, 0
    try:
        for init_state in range(job.first_init_state, 50):
            if found == wanted:
                return
            path = parts / f"{task:02d}_{init_state:02d}.safetensors"
            failed = path.with_suffix(".failed")
            if failed.exists():
                continue
            if path.exists():
                (episode,) = load_episodes(path)
            else:
                env = env or LiberoEnv(job.suite, task, job.image_size, job.fast_rendering)
                episode = record_episode(env, init_state, job.noise)
                if episode is None:
                    failed.touch()
                    continue
                part = path.with_suffix(".part")
                save_episodes([episode], part)
                part.rename(path)
            found += 1
            yield episode
    finally:
        if env is not None:
            env.close()


def record_episode(env: LiberoEnv, init_state: int, noise: float) -> Episode | None:
    """Run the expert once; None when it failed. A pure function of its arguments."""
    from .expert import LiberoExpert

    rng = np.random.RandomState([env.task, init_state])
    observation, _ = env.reset(seed=init_state, options={"init_state": init_state})
    expert = LiberoExpert(env, gain=rng.uniform(2.2, 3.0), offset=rng.uniform(-_OFFSET, _OFFSET, 2))
    scale, push = rng.uniform(0, noise) * _NOISY, np.zeros(7)
    frames: dict[str, list[np.ndarray]] = {view: [] for view in VIEWS}
    states, actions, is_over, info = [], [], False, {}
    while not is_over:
        action = expert.action().astype(np.float32)  # As stored: replays are exact.
        for view, images in frames.items():
            images.append(observation["pixels"][view])
        states.append(observation["agent_pos"])
        actions.append(action)
        innovation = np.sqrt(1 - _NOISE_MEMORY**2) * rng.randn(7)
        push = _NOISE_MEMORY * push + scale * innovation
        observation, _, terminated, truncated, info = env.step(action + push)
        is_over = terminated or truncated
    if not info["is_success"]:
        return None
    vectors = {"observation.state": np.array(states), "action": np.array(actions)}
    truth = {"init_state": [init_state] * len(actions)}
    return Episode.from_views(env.task_description, vectors, frames, truth)
