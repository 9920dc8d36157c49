# SPDX-License-Identifier: Apache-2.0
"""Rolling a policy out: aggregation of overlapping chunks, episodes in lockstep, intervals."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .models import LAWMPolicy, LAWMProcessor

Aggregation = Literal["uniform", "exponential", "none"]


@dataclass
class EpisodeResult:
    """Outcome of one episode; `seed` names its initial state."""

    seed: int
    task: str
    is_success: bool
    length: int


class ChunkAggregator:
    """Turns overlapping action chunks into the action of the current step.

    `uniform` averages all predictions of this step (the authors' evaluation), `exponential`
    weights them by `exp(-decay * age)`, newest first, and `none` executes `n_action_steps` of each
    chunk before it plans again.
    """

    def __init__(
        self, aggregation: Aggregation = "uniform", n_action_steps: int = 1, decay: float = 0.3
    ):
        if aggregation not in get_args(Aggregation):
            raise ValueError(
                f"`aggregation` must be one of {get_args(Aggregation)}, got {aggregation!r}."
            )
        if n_action_steps < 1:
            raise ValueError(f"`n_action_steps` must be at least 1, got {n_action_steps}.")
        self.aggregation, self.n_action_steps, self.decay = aggregation, n_action_steps, decay
        self.reset()

    def reset(self) -> None:
        """Forget all chunks: a new episode begins."""
        self.chunks: list[tuple[int, np.ndarray]] = []
        self.step = 0

    @property
    def needs_chunk(self) -> bool:
        """Whether the policy must be asked before the next action."""
        return self.step % self.n_action_steps == 0

    def add(self, chunk: np.ndarray) -> None:
        """Take a chunk predicted now, `(B, N, A)`."""
        if self.aggregation == "none":
            self.chunks = []
        horizon = chunk.shape[1]
        self.chunks = [(t, c) for t, c in self.chunks if self.step - t < horizon]
        self.chunks.append((self.step, chunk))

    def next_action(self) -> np.ndarray:
        """Action of this step, `(B, A)`; advances the step."""
        ages = np.array([self.step - t for t, _ in self.chunks], dtype=float)
        actions = np.stack([c[:, self.step - t] for t, c in self.chunks])  # (chunks, B, A)
        weights = np.exp(-self.decay * ages) if self.aggregation == "exponential" else ages * 0 + 1
        self.step += 1
        return np.tensordot(weights / weights.sum(), actions, axes=1)


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a rate (95 % by default), both ends in [0, 1]."""
    if trials == 0:
        return 0.0, 1.0
    rate, z2 = successes / trials, z * z
    center = rate + z2 / (2 * trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials * trials))
    scale = 1 + z2 / trials
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)


def summarize(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Success rate with its 95 % Wilson interval, overall and by task."""
    tasks = sorted({r.task for r in results})

    def rate(rows: Sequence[EpisodeResult]) -> dict[str, Any]:
        successes = sum(r.is_success for r in rows)
        low, high = wilson_interval(successes, len(rows))
        return {
            "success_rate": successes / max(len(rows), 1),
            "interval_95": [round(low, 4), round(high, 4)],
            "successes": successes,
            "episodes": len(rows),
        }

    summary = rate(results)
    summary["mean_length"] = float(np.mean([r.length for r in results])) if results else 0.0
    summary["per_task"] = {task: rate([r for r in results if r.task == task]) for task in tasks}
    return summary


def write_results(results: Sequence[EpisodeResult], folder: str | Path) -> None:
    """Write `episodes.jsonl` (one line each) and `summary.json`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(r)) for r in results]
    (folder / "episodes.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "summary.json").write_text(json.dumps(summarize(results), indent=2))


@torch.no_grad()
def predict(
    policy: LAWMPolicy,
    processor: LAWMProcessor,
    observations: Sequence[dict[str, Any]],
    tasks: Sequence[str],
    views: Sequence[str],
) -> np.ndarray:
    """Action chunks `(B, N, A)` in the environment's units for a list of observations.

    Args:
        policy: A finetuned policy.
        processor: Its processor, with statistics.
        observations: `{"pixels": {view: (H, W, C) uint8}, "agent_pos": (P,)}` each.
        tasks: Instructions.
        views: Names of the views, in the order of training.
    """
    pixels = np.stack([np.stack([o["pixels"][v] for v in views]) for o in observations])
    state = None
    if policy.config.state_size:
        state = torch.from_numpy(np.stack([o["agent_pos"] for o in observations]))
    batch = processor(
        images=torch.from_numpy(pixels).permute(0, 1, 4, 2, 3),  # (B, V, C, H, W)
        task=list(tasks),
        state=state,
    )
    batch = {key: value.to(policy.device) for key, value in batch.items()}
    chunk: Tensor = policy.predict_action_chunk(**batch)
    return processor.unnormalize_actions(chunk.float().cpu()).numpy()


def rollout(
    policy: LAWMPolicy,
    processor: LAWMProcessor,
    make_env: Callable[[], Any],
    seeds: Sequence[int],
    views: Sequence[str],
    aggregation: Aggregation = "uniform",
    n_action_steps: int = 1,
    lockstep: int = 50,
    on_step: Callable[[int, dict[str, Any]], None] | None = None,
) -> list[EpisodeResult]:
    """Play one episode per seed, `lockstep` of them at a time with one batched policy call.

    Args:
        policy: A finetuned policy; put into evaluation mode.
        processor: Its processor.
        make_env: Builds a gymnasium environment whose `reset(seed=...)` fixes the initial state,
            with `task_description` and `info["is_success"]`.
        seeds: Initial states, one episode each.
        views: Camera names in the order of training.
        aggregation: How overlapping chunks become one action.
        n_action_steps: Steps between two calls of the policy.
        lockstep: Environments alive at once.
        on_step: Called with `(seed, observation)` before each action, for videos.
    """
    policy.eval()
    results: list[EpisodeResult] = []
    envs = [make_env() for _ in range(min(lockstep, len(seeds)))]
    with tqdm(total=len(seeds), desc="episodes") as bar:
        for start in range(0, len(seeds), len(envs)):
            group = list(seeds[start : start + len(envs)])
            results += _play(
                policy, processor, envs, group, views, aggregation, n_action_steps, on_step
            )
            bar.update(len(group))
            bar.set_postfix_str(f"success {np.mean([r.is_success for r in results]):.1%}")
    for env in envs:
        env.close()
    return results


def _play(
    policy, processor, envs, seeds, views, aggregation, n_action_steps, on_step
) -> list[EpisodeResult]:
    """One group of episodes in lockstep; an environment that has ended is left alone."""
    observations = [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=False)]
    tasks = [env.unwrapped.task_description for env, _ in zip(envs, seeds, strict=False)]
    aggregator = ChunkAggregator(aggregation, n_action_steps)
    results: dict[int, EpisodeResult] = {}
    alive = list(range(len(seeds)))
    chunks = np.zeros((len(seeds), policy.config.chunk_size, policy.config.action_size))
    while alive:
        if on_step is not None:
            for i in alive:
                on_step(seeds[i], observations[i])
        if aggregator.needs_chunk:
            chunks = chunks.copy()
            chunks[alive] = predict(
                policy,
                processor,
                [observations[i] for i in alive],
                [tasks[i] for i in alive],
                views,
            )
            aggregator.add(chunks)
        actions = aggregator.next_action().clip(-1, 1).astype(np.float32)
        for i in list(alive):
            observations[i], _, terminated, truncated, info = envs[i].step(actions[i])
            if terminated or truncated:
                success = bool(info["is_success"])
                results[i] = EpisodeResult(seeds[i], tasks[i], success, aggregator.step)
                alive.remove(i)
    return [results[i] for i in range(len(seeds))]
