# SPDX-License-Identifier: Apache-2.0
"""Rolling a policy out: aggregation of overlapping chunks, episodes in lockstep."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from ..data.images import decode_image
from ..models import LAWMPolicy, LAWMProcessor
from ..models.configuration_lawm import Aggregation
from .results import EpisodeResult, Trial


class ChunkAggregator:
    """Turns overlapping action chunks into the action of the current step.

    `uniform` averages all predictions of this step (the authors' evaluation), `exponential`
    weights them by `exp(-decay * age)`, newest first, and `none` executes `n_action_steps` of each
    chunk before it plans again.
    """

    def __init__(
        self, aggregation: Aggregation = "none", n_action_steps: int = 1, decay: float = 0.3
    ):
        if aggregation not in get_args(Aggregation):
            raise ValueError(
                f"`aggregation` must be one of {get_args(Aggregation)}, got {aggregation!r}."
            )
        if n_action_steps < 1:
            raise ValueError(f"`n_action_steps` must be at least 1, got {n_action_steps}.")
        self.aggregation, self.n_action_steps, self.decay = aggregation, n_action_steps, decay
        self.reset()

    def check(self, chunk_size: int) -> None:
        """Refuse chunks that end before the next one comes.

        Raises:
            ValueError: If they do.
        """
        if self.n_action_steps > chunk_size:
            raise ValueError(
                f"`n_action_steps` must be at most the policy's chunk of {chunk_size} actions, "
                f"got {self.n_action_steps}: after them there is nothing to execute."
            )

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
        self.check(chunk.shape[1])
        if self.aggregation == "none":
            self.chunks = []
        self.chunks.append((self.step, chunk))

    def next_action(self) -> np.ndarray:
        """Action of this step, `(B, A)`; advances the step."""
        self.chunks = [(t, c) for t, c in self.chunks if self.step - t < c.shape[1]]
        ages = np.array([self.step - t for t, _ in self.chunks], dtype=float)
        actions = np.stack([c[:, self.step - t] for t, c in self.chunks])  # (chunks, B, A)
        weights = np.exp(-self.decay * ages) if self.aggregation == "exponential" else ages * 0 + 1
        self.step += 1
        return np.tensordot(weights / weights.sum(), actions, axes=1)


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
    # Scaled as the frames that the policy was trained on.
    size = policy.config.image_size
    resize: Any = getattr(policy.config, "resize", "squash")
    pixels = np.stack(
        [[decode_image(o["pixels"][v], size, resize) for v in views] for o in observations]
    )
    state = None
    if policy.config.state_size:
        state = torch.from_numpy(np.stack([o["agent_pos"] for o in observations]))
    batch = processor(
        images=torch.from_numpy(pixels),  # (B, V, C, H, W)
        task=list(tasks),
        state=state,
    )
    batch = {key: value.to(policy.device) for key, value in batch.items()}
    chunk: Tensor = policy.predict_action_chunk(**batch)
    return processor.unnormalize_actions(chunk.float().cpu()).numpy()


def fingerprint(policy: LAWMPolicy, processor: LAWMProcessor) -> str:
    """Hash of all weights and of the processor's settings: the same policy, wherever it lies."""
    digest = hashlib.sha256(processor.to_json_string().encode())
    for name, tensor in sorted(policy.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def rollout(
    policy: LAWMPolicy,
    processor: LAWMProcessor,
    make_env: Callable[[], Any],
    trials: Sequence[Trial],
    views: Sequence[str],
    aggregation: Aggregation | None = None,
    n_action_steps: int | None = None,
    lockstep: int = 50,
    on_step: Callable[[Trial, dict[str, Any]], None] | None = None,
    on_end: Callable[[EpisodeResult], None] | None = None,
) -> list[EpisodeResult]:
    """Play the trials, `lockstep` of them at a time with one batched policy call.

    Args:
        policy: A finetuned policy; put into evaluation mode.
        processor: Its processor.
        make_env: Builds a gymnasium environment as `environments` describes it.
        trials: Episodes to play.
        views: Camera names in the order of training.
        aggregation: How overlapping chunks become one action; by default as its configuration says.
        n_action_steps: Steps between two calls of the policy; likewise.
        lockstep: Environments alive at once. With 1, an episode is a function of its trial, the
            noise of a policy that draws some included.
        on_step: Called with `(trial, observation)` before each action, for videos.
        on_end: Called with each result as its episode ends.
    """
    if lockstep < 1:
        raise ValueError(f"`lockstep` must be at least 1 environment, got {lockstep}.")
    how: Aggregation = policy.config.aggregation if aggregation is None else aggregation
    steps: int = policy.config.n_action_steps if n_action_steps is None else n_action_steps
    ChunkAggregator(how, steps).check(policy.config.chunk_size)
    policy.eval()
    results: list[EpisodeResult] = []
    envs = [make_env() for _ in range(min(lockstep, len(trials)))]
    try:
        for start in range(0, len(trials), max(len(envs), 1)):
            group = list(trials[start : start + len(envs)])
            options = (how, steps, on_step, on_end)
            results += _play(policy, processor, envs, group, views, *options)
    finally:
        for env in envs:
            env.close()
    return results


def _play(
    policy, processor, envs, trials, views, aggregation, n_action_steps, on_step, on_end
) -> list[EpisodeResult]:
    """One group of episodes in lockstep; an environment that has ended is left alone."""
    envs = envs[: len(trials)]
    if len(trials) == 1:
        torch.manual_seed(trials[0].seed)
    observations = [
        env.reset(seed=trial.seed, options=trial.options)[0]
        for env, trial in zip(envs, trials, strict=True)
    ]
    tasks = [_instruction(env) for env in envs]
    space = ask(envs[0], "action_space")
    low, high = (-1, 1) if space is None else (space.low, space.high)
    aggregator = ChunkAggregator(aggregation, n_action_steps)
    results: dict[int, EpisodeResult] = {}
    alive = list(range(len(trials)))
    chunks = np.zeros((len(trials), policy.config.chunk_size, policy.config.action_size))
    while alive:
        if on_step is not None:
            for i in alive:
                on_step(trials[i], observations[i])
        if aggregator.needs_chunk:
            chunks = chunks.copy()
            seen, told = [observations[i] for i in alive], [tasks[i] for i in alive]
            chunks[alive] = predict(policy, processor, seen, told, views)
            _check_finite(chunks, policy)
            aggregator.add(chunks)
        actions = aggregator.next_action().clip(low, high).astype(np.float32)
        is_seen = on_step is not None or aggregator.needs_chunk
        for i in list(alive):
            _tell(envs[i], "draws_next", is_seen)
            observations[i], _, terminated, truncated, info = envs[i].step(actions[i])
            if terminated or truncated:
                if "is_success" not in info:
                    raise ValueError(
                        f'An episode must end with `info["is_success"]`, got {sorted(info)} from '
                        f"{envs[i]}. Add it where its `step` returns."
                    )
                outcome = (tasks[i], bool(info["is_success"]), aggregator.step)
                results[i] = EpisodeResult(trials[i].seed, *outcome, *_origin(trials[i]))
                alive.remove(i)
                if on_end is not None:
                    on_end(results[i])
    return [results[i] for i in range(len(trials))]


def _origin(trial: Trial) -> tuple[str, int | None, int | None]:
    return trial.suite, trial.task_index, trial.init_state


def ask(env: Any, name: str, default: Any = None) -> Any:
    """An attribute of an environment or of what its wrappers wrap."""
    while not hasattr(env, name) and hasattr(env, "env"):
        env = env.env
    return getattr(env, name, default)


def _tell(env: Any, name: str, value: Any) -> None:
    """Set an attribute where `ask` finds it, if it does."""
    while not hasattr(type(env), name) and hasattr(env, "env"):
        env = env.env
    if hasattr(type(env), name):
        setattr(env, name, value)


def _instruction(env: Any) -> str:
    text = ask(env, "task_description")
    if not isinstance(text, str):
        raise ValueError(
            f"An environment must say in `task_description` what is to be done, got {text!r} from "
            f"{env}. Add the attribute, a text."
        )
    return text


def _check_finite(chunks: np.ndarray, policy: LAWMPolicy) -> None:
    if np.isfinite(chunks).all():
        return
    bad = [name for name, p in policy.named_parameters() if not p.isfinite().all()]
    raise ValueError(
        f"The actions of the policy {policy.name_or_path!r} must be finite, got "
        f"{int((~np.isfinite(chunks)).sum())} that are not. "
        + (
            f"Its weights `{bad[0]}` are not: finetune it again."
            if bad
            else "Its weights are: look at its statistics and at the observations."
        )
    )
