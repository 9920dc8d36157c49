# SPDX-License-Identifier: Apache-2.0
"""`lawm-hf doctor [--policy DIR]`: is everything right for an evaluation on LIBERO?"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from ..envs.libero import LiberoEnv, setup
from ..envs.libero.env import CONTROL_HZ
from ..models import LAWMPolicy, LAWMProcessor

_CLOSE = np.array([0, 0, 0, 0, 0, 0, 1.0])
_ENDS = (("min", "q01"), ("max", "q99"))
_OUTLIER = 8.0  # A normalised state beyond this is of other data, or of other units.


class CheckError(Exception):
    """What is wrong, and what to do about it."""


def run_doctor(policy: str | None = None, fast_rendering: bool = False) -> list[dict[str, Any]]:
    """Print one line per check.

    Args:
        policy: Folder or Hub repository of a finetuned policy to check, too.
        fast_rendering: See `LiberoEnv`.

    Returns:
        Of each check its name, whether it passed, and what it said.
    """
    checks = Checks()
    if checks.run("installation", _check_setup, setup.INSTALL_REMEDY):
        env = LiberoEnv("libero_object", task=0, fast_rendering=fast_rendering)
        if checks.run("rendering", lambda: check_rendering(env), setup.GL_REMEDY):
            _check_env(checks, env, policy)
        env.close()
    return checks.done


class Checks:
    """Runs checks, prints and keeps their outcome."""

    def __init__(self) -> None:
        self.done: list[dict[str, Any]] = []

    def run(self, name: str, check: Callable[[], str], remedy: str = "") -> bool:
        """Whether a check passes; prints what it returns, or its error and the remedy."""
        try:
            passed, text = True, check()
        except Exception as error:  # Whatever is wrong is what a doctor reports.
            passed = False
            known = isinstance(error, CheckError | ModuleNotFoundError | FileNotFoundError)
            text = str(error) if known else f"{type(error).__name__}: {error}. {remedy}"
        self.done.append({"check": name, "passed": passed, "text": text})
        print(f"{'OK' if passed else 'FAIL':<6}{name}: {text}", flush=True)  # noqa: T201
        return passed


def _check_env(checks: Checks, env: LiberoEnv, policy: str | None) -> None:
    checks.run("camera orientation", lambda: check_orientation(env))
    checks.run("control rate", lambda: check_control_rate(env))
    checks.run("state layout", lambda: check_state(env))
    checks.run("gripper sign", lambda: check_gripper(env))
    states: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    checks.run("golden episode", lambda: check_golden_episode(env, states, actions))
    if policy:
        checks.run("policy", lambda: check_policy(policy, np.array(states), np.array(actions)))


def _check_setup() -> str:
    config = setup.prepare_libero()
    return f"{config}, assets in {setup.find_assets(setup.package_folder())}"


def check_rendering(env: LiberoEnv) -> str:
    """Both cameras show something."""
    observation, _ = env.reset(options={"init_state": 0})
    for view, image in observation["pixels"].items():
        if image.std() < 5:
            raise CheckError(f"camera {view} sees one colour only. {setup.GL_REMEDY}")
    from OpenGL import GL  # Comes with robosuite; only now is there a context to ask.

    renderer = GL.glGetString(GL.GL_RENDERER)
    name = renderer.decode() if renderer else "unknown renderer"
    return f"MUJOCO_GL={os.environ.get('MUJOCO_GL', 'unset')}, {name}"


def check_orientation(env: LiberoEnv) -> str:
    """Lift the named thing away: the picture must change where the camera's geometry says."""
    task, size = env.simulator.env, env.image_size
    before, _ = env.reset(options={"init_state": 0})
    name = task.obj_of_interest[0]
    place = task.sim.data._data.body(task.obj_body_id[name]).xpos.copy()
    joint = task.objects_dict[name].joints[0]
    pose = task.sim.data.get_joint_qpos(joint).copy()
    pose[:2] += 3
    task.sim.data.set_joint_qpos(joint, pose)
    task.sim.forward()
    without = task.sim.render(camera_name="agentview", width=size, height=size)
    change = np.abs(before["pixels"]["image"].astype(int) - without[::-1, ::-1]).sum(-1)
    rows, columns = np.nonzero(change > 40)
    if len(rows) < 4:
        raise CheckError(f"the {name} cannot be seen. Update robosuite, hf-libero and mujoco.")
    seen = np.array([np.median(rows), np.median(columns)])
    row, column = project(task.sim, "agentview", place, size)
    # LeRobot's data are turned from OpenGL's upside-down picture: upright, but mirrored.
    distance = np.abs(seen - [row, size - 1 - column]).max()
    if distance > 0.08 * size:
        raise CheckError(
            f"the {name} appears at row and column {seen.round()}, expected "
            f"{np.round([row, size - 1 - column])} of a picture turned by 180 degrees. Set "
            "IMAGE_CONVENTION of robosuite's macros to 'opengl'."
        )
    return f"turned by 180 degrees as LeRobot's data ({distance:.0f} pixels off)"


def project(sim: Any, camera: str, point: np.ndarray, size: int) -> tuple[float, float]:
    """Row and column of a point in an upright picture of `size` pixels, by MuJoCo's pin-hole."""
    model, data = sim.model._model, sim.data._data
    rotation = data.camera(camera).xmat.reshape(3, 3)
    x, y, z = rotation.T @ (point - data.camera(camera).xpos)  # The camera looks along -z, y is up.
    focal = 0.5 * size / np.tan(np.deg2rad(model.camera(camera).fovy[0]) / 2)
    return (size - 1) / 2 + focal * y / z, (size - 1) / 2 - focal * x / z


def check_control_rate(env: LiberoEnv) -> str:
    """One action lasts a twentieth of a second."""
    env.reset(options={"init_state": 0})
    start = env.simulator.sim.data.time
    env.step(-_CLOSE)
    rate = 1 / (env.simulator.sim.data.time - start)
    if abs(rate - CONTROL_HZ) > 0.1:
        raise CheckError(
            f"{rate:.1f} Hz, expected {CONTROL_HZ}: an action would move by another amount. "
            "Update hf-libero."
        )
    return f"{rate:.0f} Hz"


def check_state(env: LiberoEnv) -> str:
    """The state agrees with the simulator's own gripper pose and fingers."""
    observation, _ = env.reset(options={"init_state": 0})
    state, data = observation["agent_pos"], env.simulator.sim.data._data
    robot = env.simulator.robots[0]
    position = data.site("gripper0_grip_site").xpos
    rotation = data.body(robot.robot_model.eef_name).xmat.reshape(3, 3)
    angle = np.linalg.norm(state[3:6])
    x, y, z = state[3:6] / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turned = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross  # Rodrigues.
    errors = {
        "position": np.abs(state[:3] - position).max(),
        "rotation": np.abs(turned - rotation).max(),
        "fingers": abs(state[6] + state[7]),
    }
    for name, error in errors.items():
        if error > 5e-3:
            raise CheckError(f"{name} is off by {error:.3g}. Update robosuite and hf-libero.")
    return "position 3, axis-angle 3, fingers 2"


def check_gripper(env: LiberoEnv) -> str:
    """An action of +1 closes the gripper, -1 opens it."""
    first = env.reset(options={"init_state": 0})[0]["agent_pos"]
    closed = [env.step(_CLOSE)[0]["agent_pos"] for _ in range(4)][-1]
    opened = [env.step(-_CLOSE)[0]["agent_pos"] for _ in range(8)][-1]
    widths = [float(state[6] - state[7]) for state in (first, closed, opened)]
    if not widths[1] < min(widths[0], widths[2]):
        raise CheckError(
            f"opening {widths[0]:.3f} m, then {widths[1]:.3f} after +1. Update robosuite."
        )
    return f"+1 closes: opening {widths[0] * 100:.1f} cm, after four steps {widths[1] * 100:.1f} cm"


def check_golden_episode(
    env: LiberoEnv, states: list[np.ndarray], actions: list[np.ndarray]
) -> str:
    """The scripted expert succeeds; its states and actions are appended to the lists."""
    from ..envs.libero.expert import LiberoExpert

    observation, _ = env.reset(options={"init_state": 0})
    expert, is_over, info = LiberoExpert(env), False, {}
    while not is_over:
        states.append(observation["agent_pos"])
        actions.append(expert.action())
        observation, _, terminated, truncated, info = env.step(actions[-1])
        is_over = terminated or truncated
    if not info["is_success"]:
        raise CheckError(
            f"the expert failed on {env.task_description!r}, initial state 0. Compare the versions "
            "of mujoco, robosuite and hf-libero with those that `lerobot[libero]==0.6.1` installs."
        )
    return f"{env.task_description!r} done in {len(actions)} steps"


def check_policy(folder: str, states: np.ndarray, actions: np.ndarray) -> str:
    """Sizes and statistics of a policy agree with what the robot does.

    Args:
        folder: Folder or Hub repository.
        states: Those of an episode, `(T, 8)`.
        actions: Those of an episode, `(T, 7)`.
    """
    policy = LAWMPolicy.from_pretrained(folder)
    processor = LAWMProcessor.from_pretrained(folder)
    config = policy.config
    if config.action_size != 7 or config.state_size not in (0, 8):
        raise CheckError(
            f"LIBERO has 7 actions and a state of 8, the policy {config.action_size} and "
            f"{config.state_size}. Finetune on a LIBERO dataset."
        )
    if config.state_size:
        stats = processor.state_stats or {}
        _check_range("state", stats, states)
    stats = processor.action_stats or {}
    _check_range("action", stats, actions)
    _check_gripper_range(stats)
    return f"{config.model_type}, statistics fit the golden episode"


def _check_gripper_range(stats: dict[str, list[float]]) -> None:
    """The data's gripper, not the policy's: what is trained is what the data mean."""
    ends = [(stats.get(a) or stats.get(b) or [np.nan] * 7)[6] for a, b in _ENDS]
    if not np.abs(np.subtract(ends, (-1, 1))).max() < 0.5:
        raise CheckError(
            f"the gripper must go from -1, open, to +1, closed, got data of {ends[0]:.3g} to "
            f"{ends[1]:.3g}. Convert them (g of 0, closed, to 1, open: 1 - 2 g) and finetune again."
        )


def _check_range(name: str, stats: dict[str, list[float]], values: np.ndarray) -> None:
    if not {"mean", "std"} <= set(stats):
        raise CheckError(f"the processor has no {name} statistics. Load a finetuned policy.")
    mean, std = (np.array(stats[key]) for key in ("mean", "std"))
    # An axis that the data hardly use would make a millimetre look far away.
    scores = np.abs(values - mean) / np.maximum(std, 0.01)
    worst = np.unravel_index(scores.argmax(), scores.shape)
    if scores[worst] > _OUTLIER:
        raise CheckError(
            f"{name} {worst[1]} is {values[worst]:.3g} in the golden episode, {scores[worst]:.0f} "
            f"standard deviations from the data's mean {mean[worst[1]]:.3g}. The data have other "
            "units, signs or axes: convert them to LeRobot's LIBERO convention."
        )
