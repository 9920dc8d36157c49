# SPDX-License-Identifier: Apache-2.0
"""LIBERO as a gymnasium environment, with the views and the state that LeRobot's pipeline makes."""

import contextlib
import difflib
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from ..actions import checked_action
from .meshes import simplify_rendering
from .setup import prepare_libero
from .stepping import Economy

# Steps after which an episode is given up: LeRobot's. OpenVLA's differ in one: libero_spatial 220.
SUITES = {
    "libero_spatial": 280,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
VIEWS = {"image": "agentview_image", "image2": "robot0_eye_in_hand_image"}
CONTROL_HZ = 20
_SETTLE_STEPS = 10  # Objects fall into place before the episode begins.
_SETTLE_ACTION = np.array([0, 0, 0, 0, 0, 0, -1.0])  # Gripper open.


class LiberoEnv(gymnasium.Env):
    """One task of a LIBERO suite: `gymnasium.make("lawm_hf/Libero-v0", task=3)`.

    Observations are `{"pixels": {"image": ..., "image2": ...}, "agent_pos": ...}`: the fixed and
    the wrist camera, uint8 `(H, W, 3)`, both turned by 180 degrees as in LeRobot's datasets; and
    float32 `(8,)`: position of the gripper, its rotation as axis-angle, two finger positions.
    Actions are float32 `(7,)` in [-1, 1]: translation, rotation, gripper (-1 opens, +1 closes). The
    reward is 1 on success; an episode ends then, or after the suite's number of steps. It depends
    on suite, task, initial state and seed alone, whatever was played before.

    The simulator is built by the first `reset`. Keep one alive per process and close it before the
    next: a second render context beside the first fails.

    Args:
        suite: `"libero_spatial"`, `"libero_object"`, `"libero_goal"`, `"libero_10"` or
            `"libero_90"`.
        task: Index of the task in the suite.
        image_size: Side of the square views, in pixels.
        fast_rendering: Thinner visual meshes and no multisampling, for machines without a GPU. The
            pictures differ a little: use it for both recording and evaluation, or for neither.
        episode_length: Steps after which an episode is given up; None: the suite's.
        render_mode: `"rgb_array"` only; `render` returns the fixed camera's view.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}  # noqa: RUF012
    max_alive = 1  # A second render context beside the first fails.
    # Whether the next step's pictures are drawn; if not, it returns what was drawn last.
    draws_next = True

    def __init__(
        self,
        suite: str = "libero_object",
        task: int = 0,
        image_size: int = 128,
        fast_rendering: bool = False,
        render_mode: str | None = "rgb_array",
        episode_length: int | None = None,
    ):
        if episode_length is not None and episode_length < 1:
            raise ValueError(
                f"`episode_length` must be at least 1 step, got {episode_length}. Leave it out for "
                "the suite's own."
            )
        prepare_libero()
        description = get_task(suite, task)
        self.suite, self.task, self.render_mode = suite, task, render_mode
        self.image_size, self.fast_rendering = image_size, fast_rendering
        self.task_description: str = description.language
        self._max_episode_steps = episode_length or SUITES[suite]
        self._init_states = _load_init_states(description)
        self._description = description
        self._simulator: Any = None
        self._raw: dict[str, np.ndarray] = {}
        view = gymnasium.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict(
            {
                "pixels": gymnasium.spaces.Dict(dict.fromkeys(VIEWS, view)),
                "agent_pos": gymnasium.spaces.Box(-np.inf, np.inf, (8,), np.float32),
            }
        )
        self.action_space = gymnasium.spaces.Box(-1, 1, (7,), np.float32)

    @property
    def num_tasks(self) -> int:
        """How many tasks the suite has."""
        return len(_tasks(self.suite))

    @property
    def num_init_states(self) -> int:
        """How many initial states the benchmark has for this task (50)."""
        return len(self._init_states)

    @property
    def simulator(self) -> Any:
        """LIBERO's own environment, for an expert or a check; built when first asked for."""
        if self._simulator is None:
            self._simulator = self._build()
        return self._simulator

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode from one of the benchmark's initial states.

        Args:
            seed: Draws the places of fixtures (cabinets, stoves), which the initial states lack,
                and chooses the state, `seed % num_init_states`, unless `options` does. None: any.
            options: `{"init_state": index}`.

        Returns:
            The observation, and what repeats the episode: `{"seed": ..., "init_state": ...}`.
        """
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        index = (options or {}).get("init_state", seed % self.num_init_states)
        if not 0 <= index < self.num_init_states:
            raise ValueError(
                f"`init_state` must be one of the {self.num_init_states} of task {self.task} of "
                f"{self.suite}, 0 to {self.num_init_states - 1}, got {index}."
            )
        self.simulator.seed(seed % 2**32)
        self._economy.draws = False
        self.simulator.reset()
        self.simulator.set_init_state(self._init_states[index])
        for robot in self.simulator.robots:  # Only this survives a reset that rebuilds nothing.
            robot.gripper.current_action = np.zeros(robot.gripper.dof)
        for number in range(_SETTLE_STEPS):
            self._execute(_SETTLE_ACTION, number == _SETTLE_STEPS - 1)
        self._steps = 0
        return self._observation(), {"is_success": False, "init_state": index, "seed": seed}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Execute one action `(7,)`, clipped to [-1, 1]."""
        self._execute(checked_action(action), self.draws_next)
        is_success = bool(self.simulator.check_success())
        self._steps += 1
        is_over = self._steps >= self._max_episode_steps
        info = {"is_success": is_success}
        return self._observation(), float(is_success), is_success, is_over, info

    def render(self) -> np.ndarray | None:
        """The fixed camera's view, uint8 `(H, W, 3)`."""
        return self._observation()["pixels"]["image"] if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Free the simulator and its render context."""
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = None

    def _execute(self, action: np.ndarray, draws: bool) -> None:
        self._economy.draws = draws
        with self._economy.stepping():
            self._raw = self.simulator.step(action)[0]
        self._economy.draws = True

    def _build(self) -> Any:
        from libero.libero import get_libero_path
        from libero.libero.envs import OffScreenRenderEnv

        folder = Path(get_libero_path("bddl_files"), self._description.problem_folder)
        with contextlib.redirect_stdout(None):  # It says "Downloading" when it finds the assets.
            simulator = OffScreenRenderEnv(
                bddl_file_name=str(folder / self._description.bddl_file),
                camera_heights=self.image_size,
                camera_widths=self.image_size,
                control_freq=CONTROL_HZ,
                ignore_done=True,  # It would refuse the 1000th step; `step` counts itself.
                # Several times sooner than a new model, and the same to the bit (see `reset`). But
                # for tasks that say what begins open, closed or turned on: each new model adds a
                # draw before those of the fixtures, whose places then depend on how often.
                hard_reset=False,
            )
        if self.fast_rendering:
            simplify_rendering(simulator.sim.model._model)
            context = simulator.sim._render_context_offscreen
            context.con.free()
            context._set_mujoco_context_and_buffers()
        self._economy = Economy(simulator.env, list(VIEWS.values()))
        return simulator

    def _observation(self) -> dict[str, Any]:
        raw = self._raw
        # robosuite's pictures are upside down; LeRobot's datasets are turned, not flipped back.
        pixels = {k: np.ascontiguousarray(raw[v][::-1, ::-1]) for k, v in VIEWS.items()}
        parts = (raw["robot0_eef_pos"], axis_angle(raw["robot0_eef_quat"]))
        state = np.concatenate([*parts, raw["robot0_gripper_qpos"]]).astype(np.float32)
        return {"pixels": pixels, "agent_pos": state}


def get_task(suite: str, task: int) -> Any:
    """LIBERO's description of a task: `language`, `bddl_file` and so on.

    Call `prepare_libero` first.

    Raises:
        ValueError: If there is no such suite or task.
    """
    tasks = _tasks(suite)
    if not 0 <= task < len(tasks):
        raise ValueError(
            f"`task` must be one of the {len(tasks)} tasks of {suite}, 0 to {len(tasks) - 1}, "
            f"got {task}."
        )
    return tasks[task]


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """Rotation vector `(3,)` of a unit quaternion `(x, y, z, w)`, its angle in [0, 2 pi].

    In float32 like LeRobot's, and like it not the shortest one: w < 0 gives angles above pi.
    """
    x = np.asarray(quaternion, np.float32)
    w = np.clip(x[3], np.float32(-1), np.float32(1))
    length = np.sqrt(np.maximum(np.float32(1) - w * w, np.float32(0)))
    if length <= 1e-10:
        return np.zeros(3, np.float32)
    return x[:3] / length * (np.float32(2) * np.arccos(w))


def _tasks(suite: str) -> list[Any]:
    if suite not in SUITES:
        close = difflib.get_close_matches(str(suite), SUITES, n=1)
        hint = f"Did you mean `{close[0]}`?" if close else f"There are: {', '.join(SUITES)}."
        raise ValueError(f"There is no LIBERO suite `{suite}`. {hint}")
    from libero.libero import benchmark

    with contextlib.redirect_stdout(None):
        return benchmark.get_benchmark_dict()[suite]().tasks


def _load_init_states(description: Any) -> np.ndarray:
    import torch
    from libero.libero import get_libero_path

    folder = Path(get_libero_path("init_states"), description.problem_folder)
    # The file holds a pickled numpy array, shipped with LIBERO's wheel.
    return torch.load(folder / description.init_states_file, weights_only=False)
