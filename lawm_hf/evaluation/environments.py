# SPDX-License-Identifier: Apache-2.0
"""Any gymnasium environment as a benchmark: what an evaluation asks of it before it plays.

It must have

- observations `{"pixels": {view: (H, W, 3) uint8}, "agent_pos": (P,)}`, the state where the policy
  has one, and a `Box` of actions `(A,)`;
- `reset(seed=...)` that fixes the initial state, and `task_description`, the instruction then;
- an end (`max_episode_steps` of the registration or `_max_episode_steps` of its own), and
  `info["is_success"]` there.

It may have, as attributes, which an evaluation follows:

- `suite`: name of its family of tasks; the constructor then takes `suite`;
- `num_tasks`: tasks of the suite, each played; the constructor then takes `task`;
- `num_init_states`: those of a task; `reset` then takes `options={"init_state": index}`;
- `max_alive`: how many may live in a process at once;
- `any_image_size`: True if `image_size` changes nothing but detail: then it is the policy's;
- `draws_next`: set to False before a step whose pictures nobody will look at;
- `metadata["render_fps"]`: steps in a second, of videos.
"""

import contextlib
import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..models import LAWMPolicyConfig
from .rollout import ask

if TYPE_CHECKING:  # It is optional: what is missing is said when a command runs.
    import gymnasium


@dataclass(frozen=True)
class Environment:
    """An environment, and its answers; see the module."""

    id: str
    options: dict[str, Any]
    suite: str
    num_tasks: int | None
    num_init_states: int | None
    max_alive: int | None
    views: list[str]
    image_size: int
    fps: float

    def make(self, task: int | None = None) -> "gymnasium.Env":
        """Build the one of this task."""
        return _make(self.id, self.options | ({} if task is None else {"task": task}))


@dataclass(frozen=True)
class _KeptEnvironment(Environment):
    """Builds the one of a task once, until that of another task is asked for."""

    made: dict[int | None, Any] = field(default_factory=dict)

    def make(self, task: int | None = None) -> Any:
        import gymnasium

        class StaysOpen(gymnasium.Wrapper):
            def close(self) -> None:
                """Whoever has made it does that."""

        if task not in self.made:
            self.close()
            self.made[task] = super().make(task)
        return StaysOpen(self.made[task])

    def close(self) -> None:
        while self.made:
            self.made.popitem()[1].close()


@contextlib.contextmanager
def keep_simulator(env: Environment) -> Iterator[Environment]:
    """Where one may live at a time, it lives on between rollouts: building it takes seconds."""
    if env.max_alive != 1:
        yield env
        return
    kept = _KeptEnvironment(**vars(env))
    try:
        yield kept
    finally:
        kept.close()


def ask_environment(
    name: str, config: LAWMPolicyConfig, options: dict[str, Any], views: list[str]
) -> Environment:
    """Build an environment, ask it, see that the policy fits, and close it.

    Args:
        name: Id of a registered environment, `package:id`, or `"tabletop"`, `"libero"`: those of
            the namespace `lawm_hf` have short names.
        config: Of the policy that will play.
        options: What its constructor takes.
        views: Its cameras in the order of training; none: as the policy knows them, or all.

    Raises:
        ValueError: If there is none of that name, or it and the policy do not fit.
    """
    views = views or list(getattr(config, "views", None) or [])
    environment, env = open_environment(name, options)
    try:
        if ask(env, "_max_episode_steps") is None:
            raise ValueError(
                f"An episode of {name} must end, but neither it nor its registration has a number "
                "of steps. Give one: --env_options '{\"max_episode_steps\": 200}'."
            )
        cameras = _check_spaces(name, env, config, views)
        fits_any = ask(env, "any_image_size") and "image_size" not in options
        return Environment(
            id=environment,
            options=options | ({"image_size": config.image_size} if fits_any else {}),
            suite=ask(env, "suite", options.get("suite", "")),
            num_tasks=ask(env, "num_tasks"),
            num_init_states=ask(env, "num_init_states"),
            max_alive=ask(env, "max_alive"),
            views=views or list(cameras),
            image_size=config.image_size if fits_any else next(iter(cameras.values())).shape[0],
            fps=env.metadata.get("render_fps") or 10,
        )
    finally:
        env.close()


def open_environment(name: str, options: dict[str, Any]) -> "tuple[str, gymnasium.Env]":
    """The id behind a name, and the environment, built; see `ask_environment`."""
    import gymnasium

    from .. import envs  # noqa: F401  (registers ours)

    short = {s.name.lower(): s.id for s in gymnasium.registry.values() if s.namespace == "lawm_hf"}
    environment = short.get(name, name)
    return environment, _make(environment, options, [*short, *gymnasium.registry])


def _make(environment: str, options: dict[str, Any], known: list[str] | None = None) -> Any:
    import gymnasium

    try:
        return gymnasium.make(environment, **options)
    except gymnasium.error.UnregisteredEnv as error:
        close = difflib.get_close_matches(environment, known or [], n=1)
        hint = f"Did you mean `{close[0]}`?" if close else "Ours are `tabletop` and `libero`."
        raise ValueError(
            f"`env` must be the id of a registered gymnasium environment, got {environment!r}. "
            f"{hint} To register one of your own, name its package: --import my_package."
        ) from error
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise ValueError(
            f"{environment} must take what `--suite`, `--image_size`, `--fast_rendering` and "
            f"`--env_options` give it, got {options}: {error}. Leave that out."
        ) from error


def _check_spaces(
    name: str, env: "gymnasium.Env", config: LAWMPolicyConfig, views: list[str]
) -> dict[str, Any]:
    """The environment's cameras, after a look at all spaces."""
    import gymnasium

    seen, actions = env.observation_space, env.action_space
    parts: Any = seen.spaces if isinstance(seen, gymnasium.spaces.Dict) else {}
    pixels = parts.get("pixels")
    if not isinstance(pixels, gymnasium.spaces.Dict) or not pixels.spaces:
        raise ValueError(
            f'Observations of {name} must be {{"pixels": {{view: image}}, "agent_pos": state}}, '
            f"got {seen}. Wrap it with `gymnasium.wrappers.TransformObservation`."
        )
    for view in views:
        if view not in pixels.spaces:
            raise ValueError(
                f"`views` must be cameras of {name}, {', '.join(pixels.spaces)}, got {view!r}. "
                "Name those that are, in the policy's order: --views CAMERA CAMERA."
            )
    sizes = {"action": (config.action_size, actions)}
    if config.state_size:
        sizes["state"] = (config.state_size, parts.get("agent_pos"))
    for part, (size, space) in sizes.items():
        shape = space.shape if isinstance(space, gymnasium.spaces.Box) else None
        if shape != (size,):
            raise ValueError(
                f"The policy's {part} has {size} numbers, that of {name} must, too, got {space}. "
                "Evaluate where the policy was finetuned, or finetune it on data of this one."
            )
    return dict(pixels.spaces)
