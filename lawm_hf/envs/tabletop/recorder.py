# SPDX-License-Identifier: Apache-2.0
"""Record expert demonstrations, or videos without actions, as a cached LeRobot v3.0 dataset."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import mujoco
import numpy as np
from huggingface_hub import constants
from tqdm import tqdm

from ...writing import episode, lerobot
from ...writing.atomic import lock_folder, unlock_folder
from ...writing.episode import Episode
from ...writing.lerobot import LeRobotWriter
from .expert import ScriptedExpert
from .scene import Domain
from .simulation import CONTROL_HZ, VIEWS, Tabletop

STATE_NAMES = ["x", "y", "z", "axis_angle1", "axis_angle2", "axis_angle3", "gripper", "gripper2"]
ACTION_NAMES = ["x", "y", "z", "axis_angle1", "axis_angle2", "axis_angle3", "gripper"]
_NOISE_MEMORY = 0.7  # Of the AR(1) noise on executed actions: pushes last a few steps.
_EPISODES_PER_WORKER = 32  # Fewer are not worth a process.


@dataclass(frozen=True)
class _Job:
    """What decides the content of a recording."""

    suite: str
    num_episodes: int
    seed: int
    domain: Domain
    actions: bool
    views: tuple[str, ...]
    image_size: int
    noise: float
    max_frames: int | None

    def __post_init__(self):
        if self.num_episodes < 1:
            raise ValueError(f"`num_episodes` must be at least 1, got {self.num_episodes}.")
        if not 0 <= self.seed < 2**32 - 2 * self.num_episodes:
            raise ValueError(f"`seed` must lie in [0, 2**32 - 2 * num_episodes), got {self.seed}.")
        if not self.views or not set(self.views) <= set(VIEWS):
            raise ValueError(f"`views` must be some of {VIEWS}, got {self.views}.")
        if self.domain == "hand" and (self.actions or self.views != ("front",)):
            raise ValueError(
                'The "hand" domain stands for video of people: it has no actions and no wrist '
                f"camera, got actions={self.actions}, views={self.views}. Pass actions=False, "
                'views=("front",).'
            )
        if not self.noise >= 0:
            raise ValueError(f"`noise` must not be negative, got {self.noise}.")
        if self.max_frames is not None and self.max_frames < 1:
            raise ValueError(f"`max_frames` must be at least 1, got {self.max_frames}.")


def record_tabletop(
    suite: str = "reach",
    num_episodes: int = 4000,
    seed: int = 100_000,
    domain: Domain = "robot",
    actions: bool = True,
    views: Sequence[str] = VIEWS,
    image_size: int = 64,
    noise: float = 0.3,
    max_frames: int | None = None,
    cache_dir: str | Path | None = None,
    num_workers: int | None = None,
) -> Path:
    """Record expert episodes, or return the recording made before with the same arguments.

    The expert's action is the label; what is executed is the label plus noise, so that the data
    show how to come back to the path. Only successful episodes are kept. Scenes come from
    consecutive seeds; evaluation uses small seeds, so keep `seed` above those.
    `meta/tabletop_truth.parquet` holds, for each frame, what an analysis may know and a policy may
    not: `seed`, `target_index`, `colors`, `target_xy`, `objects_xy`, `goal_xy`, `hand_xyz`.

    Args:
        suite: `"reach"`, `"place2"` or `"place4"`.
        num_episodes: Episodes kept.
        seed: Seed of the first scene, in [0, 2**32).
        domain: `"robot"`, or `"hand"` for the second video domain.
        actions: Whether to write `action` and `observation.state`; False leaves video and text.
        views: Cameras, of `"front"` and `"wrist"`.
        image_size: Side of the square pictures, in pixels.
        noise: Each episode draws the standard deviation of its noise from [0, noise], in units of
            action.
        max_frames: Keep only this many frames from the beginning of each episode.
        cache_dir: Where recordings live; None for `lawm_hf/tabletop` in the Hugging Face cache.
        num_workers: Processes; None for one per core. The content does not depend on it.

    Returns:
        The dataset's folder. Its name holds a hash of the arguments and of this package's source.
    """
    views = tuple(view for view in VIEWS if view in views) if set(views) <= set(VIEWS) else views
    job = _Job(
        *(suite, num_episodes, seed, domain, actions, tuple(views)),
        *(image_size, noise, max_frames),
    )
    world = Tabletop(suite, image_size, domain)  # Checks these three, before anything is written.
    cache = Path(constants.HF_HOME, "lawm_hf/tabletop") if cache_dir is None else Path(cache_dir)
    kind = domain if actions else f"{domain}-video"
    folder = cache / f"{suite}-{kind}-{num_episodes}-{_fingerprint(job)}"
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with _unfinished_folder(cache) as unfinished:
        root = unfinished / "dataset"
        features = lerobot_features(job.views, job.image_size, job.actions)
        writer = LeRobotWriter(root, features, world.suite.tasks, CONTROL_HZ, "tabletop")
        for episode in _episodes(job, num_workers):
            writer.add(episode)
        writer.close()
        try:
            root.rename(folder)
        except OSError:
            if not folder.exists():  # Otherwise another process was first, with the same content.
                raise
    return folder


@contextmanager
def _unfinished_folder(cache: Path) -> Iterator[Path]:
    """A folder for the time of a recording, after removal of those that killed ones have left."""
    for left in cache.glob(".unfinished-*"):
        try:
            with warnings.catch_warnings(action="error"):  # without locks, nobody can tell
                lock_folder(left)
        except (OSError, UserWarning):
            continue
        shutil.rmtree(left, ignore_errors=True)
        unlock_folder(left)
    # Under the name that says so only when it is locked: another process may be looking.
    started = Path(tempfile.mkdtemp(prefix=".starting-", dir=cache))
    lock_folder(started)
    unfinished = started.rename(cache / started.name.replace("starting", "unfinished"))
    try:
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        unlock_folder(started)


def _fingerprint(job: _Job) -> str:
    """Hash of all that decides the content: arguments, source of world and writer, MuJoCo."""
    digest = hashlib.sha256(json.dumps([asdict(job), mujoco.__version__]).encode())
    writers = [Path(episode.__file__), Path(lerobot.__file__)]
    for path in [*sorted(Path(__file__).parent.glob("*.py")), *writers]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def lerobot_features(
    views: Iterable[str], image_size: int, with_actions: bool = True
) -> dict[str, dict]:
    """What a recording holds, as `info.json` names it."""
    shape, names = [image_size, image_size, 3], ["height", "width", "channel"]
    features: dict[str, dict] = {
        f"observation.images.{view}": {"dtype": "image", "shape": shape, "names": names}
        for view in views
    }
    for name, labels in (("observation.state", STATE_NAMES), ("action", ACTION_NAMES)):
        if with_actions:
            features[name] = {"dtype": "float32", "shape": [len(labels)], "names": labels}
    return features


def _episodes(job: _Job, num_workers: int | None) -> Iterator[Episode]:
    """The first `num_episodes` successes of the scenes from `seed` on, with a progress bar."""
    if num_workers is None:
        num_workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    missing, next_seed, tries = job.num_episodes, job.seed, 0
    with tqdm(total=missing, desc=f"recording {job.suite}", unit="episode") as bar:
        while missing > 0:
            # Failures are made up for by further scenes, whatever the number of workers.
            seeds = range(next_seed, next_seed + missing)
            next_seed += missing
            for episode in _attempt(job, seeds, min(num_workers, missing // _EPISODES_PER_WORKER)):
                tries += 1
                if episode is not None:
                    missing -= 1
                    bar.update()
                    yield episode
                bar.set_postfix(tries=tries, refresh=False)
            if next_seed > job.seed + 2 * job.num_episodes + 100:
                raise RuntimeError(
                    f"The expert failed in {tries - job.num_episodes + missing} of {tries} "
                    f"episodes with noise={job.noise}. Lower `noise`."
                )


def _attempt(job: _Job, seeds: range, num_workers: int) -> Iterator[Episode | None]:
    """One episode for each seed, in order; None where the expert failed.

    Workers are plain subprocesses and not `multiprocessing`'s: those would either fork a process
    that may hold threads and locks, or import the caller's main module (torch and all) again.
    Worker w records the seeds w, w + n, ...; its pipe holds it back when it runs ahead.
    """
    if num_workers < 2:
        yield from (_record(world, job, seed) for world in [_world(job)] for seed in seeds)
        return
    command = [sys.executable, "-c", f"from {__name__} import _work; _work()"]
    search_path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    environment = os.environ | {"PYTHONPATH": search_path}
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        for _ in range(num_workers)
    ]
    try:
        for index, worker in enumerate(workers):
            assert worker.stdin is not None, "opened as a pipe"
            pickle.dump((job, seeds[index::num_workers]), worker.stdin)
            worker.stdin.close()
        for index in range(len(seeds)):
            output = workers[index % num_workers].stdout
            assert output is not None, "opened as a pipe"
            try:
                yield pickle.load(output)
            except EOFError:
                raise RuntimeError(
                    "A recording process ended early; its own error is printed above. "
                    "Pass num_workers=1 to record in this process."
                ) from None
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def _work() -> None:
    """What a worker runs: job from stdin, episodes to stdout."""
    job, seeds = pickle.load(sys.stdin.buffer)
    world = _world(job)
    for seed in seeds:
        pickle.dump(_record(world, job, seed), sys.stdout.buffer)
    sys.stdout.buffer.flush()


def _world(job: _Job) -> Tabletop:
    return Tabletop(job.suite, job.image_size, job.domain)


def _record(world: Tabletop, job: _Job, seed: int) -> Episode | None:
    """Run the expert once; None when it failed."""
    world.reset(seed)
    expert, suite = ScriptedExpert(world), world.suite
    rng = np.random.RandomState([seed, 1])
    scale = rng.uniform(0, job.noise) * np.array([1, 1, 1, 0, 0, 0.5, 0])
    push = np.zeros(7)
    views: dict[str, list[np.ndarray]] = {view: [] for view in job.views}
    vectors: dict[str, list[np.ndarray]] = {"observation.state": [], "action": []}
    truth: dict[str, list] = {}
    for step in range(suite.max_steps):
        action = expert.action().astype(np.float32)  # As stored: replays are exact.
        if job.max_frames is None or step < job.max_frames:
            for view, frames in views.items():
                frames.append(world.render(view))
            vectors["observation.state"].append(world.state())
            vectors["action"].append(action)
            for name, value in _truth(world, seed).items():
                truth.setdefault(name, []).append(value)
        innovation = np.sqrt(1 - _NOISE_MEMORY**2) * rng.randn(7)
        push = _NOISE_MEMORY * push + scale * innovation
        if world.step(action + push) and step + 1 >= suite.min_steps:
            break
    if not world.is_success:
        return None
    recorded = {k: np.array(v, np.float32) for k, v in vectors.items() if job.actions}
    return Episode.from_views(world.instruction, recorded, views, truth)


def _truth(world: Tabletop, seed: int) -> dict:
    return {
        "seed": seed,
        "target_index": world.layout.target,
        "colors": list(world.layout.colors),
        "target_xy": world.target_cube[:2],
        "objects_xy": world.cubes[:, :2],
        "goal_xy": world.goal_xy,
        "hand_xyz": world.hand,
    }
