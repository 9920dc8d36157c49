# SPDX-License-Identifier: Apache-2.0
"""The tabletop: reproducible pictures, LIBERO's conventions, tasks that the words decide."""

import hashlib

import numpy as np
import pytest

mujoco = pytest.importorskip("mujoco")
gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from lawm_hf.envs import SUITES, ScriptedExpert, Tabletop, TabletopEnv  # noqa: E402
from lawm_hf.envs.tabletop.scene import ATTACHED_GROUP, CUBE_HALF_SIZE, MOVING_GROUP, STATIC_GROUP  # noqa: E402
from lawm_hf.envs.tabletop.simulation import STEP_SIZE, VIEWS  # noqa: E402

GOLDEN = {
    "robot": "12d77e0a30abb10d",
    "hand": "f654a231a63acfff",
}
OPEN, CLOSE = -1.0, 1.0


def run_expert(world):
    """The executed actions, up to success or the suite's limit."""
    expert, actions = ScriptedExpert(world), []
    for _ in range(world.suite.max_steps):
        actions.append(expert.action())
        if world.step(actions[-1]):
            break
    return actions


def move(world, direction, steps, gripper=OPEN):
    for _ in range(steps):
        world.step(np.array([*direction, 0, 0, 0, gripper]))


@pytest.mark.parametrize("domain", GOLDEN)
def test_pixels_are_the_same_on_every_machine(domain):
    world = Tabletop("place4", domain=domain)
    world.reset(0)
    pixels = b"".join(world.render(view).tobytes() for view in VIEWS)
    assert hashlib.sha256(pixels).hexdigest()[:16] == GOLDEN[domain]


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("domain", GOLDEN)
@pytest.mark.parametrize("view", VIEWS)
def test_pictures_equal_those_with_a_ray_for_every_pixel(suite, domain, view):
    world = Tabletop(suite, 48, domain)
    world.reset(5)
    expert = ScriptedExpert(world)
    renderer = world.renderers[view]
    for _ in range(16):
        world.step(expert.action())
        picture = world.render(view)
        rays = renderer._rays(world.data)
        expected = renderer._table(world.data, rays)
        groups = (STATIC_GROUP, MOVING_GROUP, ATTACHED_GROUP)
        every_pixel = np.ones(48 * 48, bool)
        where, normal, color = renderer._cast(world.data, rays, every_pixel, groups)
        expected[where] = renderer._shade(normal, color, renderer._light)
        # A normal turned into the wrist camera's frame and back may round to the next byte.
        difference = picture.reshape(-1, 3).astype(int) - expected
        assert np.abs(difference).max() <= (0 if view == "front" else 1)


@pytest.mark.parametrize("domain", GOLDEN)
@pytest.mark.parametrize("x", [-0.15, 0.15])
@pytest.mark.parametrize("y", [-0.18, 0.18])
def test_cubes_are_at_least_seven_pixels_wide_everywhere(domain, x, y):
    world = Tabletop("reach", 64, domain)
    far = np.array([0, 0, 9.0])
    pictures = []
    for position in ([x, y, CUBE_HALF_SIZE], [x, y, -9]):
        for body in world._cubes:
            world.model.body_pos[body] = -far
        world.model.body_pos[world._cubes[0]] = position
        world.model.body_quat[world._cubes[0]] = (1, 0, 0, 0)
        world.data.qpos[:3] = far
        mujoco.mj_forward(world.model, world.data)
        world.renderers["front"].start_episode()
        pictures.append(world.render())
    is_cube = (pictures[0] != pictures[1]).any(-1)
    assert is_cube.any(0).sum() >= 7
    assert is_cube.any(1).sum() >= 7
    assert not is_cube[[0, -1]].any(), "cut off by the picture's border"
    assert not is_cube[:, [0, -1]].any(), "cut off by the picture's border"


def test_the_two_domains_differ_visibly():
    pictures = []
    for domain in GOLDEN:
        world = Tabletop("place2", domain=domain)
        world.reset(1)
        pictures.append(world.render().astype(int))
    assert np.abs(pictures[0] - pictures[1]).mean() > 15


@pytest.mark.parametrize("suite", SUITES)
def test_episodes_are_a_pure_function_of_the_seed(suite):
    fresh, used = Tabletop(suite), Tabletop(suite)
    fresh.reset(7)
    used.reset(3)
    run_expert(used)
    used.render()
    used.reset(7)
    for _ in range(2):
        for view in VIEWS:
            np.testing.assert_array_equal(fresh.render(view), used.render(view))
        np.testing.assert_array_equal(fresh.state(), used.state())
        for world in (fresh, used):
            move(world, (0.5, -1, -0.5), 3)
    used.reset(8)
    assert not np.array_equal(fresh.layout.cube_xy, used.layout.cube_xy)


@pytest.mark.parametrize("suite", SUITES)
def test_tasks_follow_from_the_seed_and_name_what_is_there(suite):
    world = Tabletop(suite)
    for seed in range(2 * len(world.suite.tasks)):
        world.reset(seed)
        assert world.instruction == world.suite.tasks[seed % len(world.suite.tasks)]
        assert world.layout.colors[world.layout.target] in world.instruction
        assert len(set(world.layout.colors)) == world.suite.num_cubes


@pytest.mark.parametrize("suite", ["reach", "place4"])
def test_pictures_do_not_tell_the_instruction(suite):
    world = Tabletop(suite)
    first = []
    for task in range(len(world.suite.tasks)):
        world.reset(11, task)
        first.append(world.render())
    assert all(np.array_equal(first[0], other) for other in first)


@pytest.mark.parametrize("suite", SUITES)
def test_expert_succeeds(suite):
    world = Tabletop(suite)
    for seed in range(10):
        world.reset(seed)
        run_expert(world)
        assert world.is_success, f"seed {seed}"


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_expert_succeeds_on_every_task(suite):
    world = Tabletop(suite)
    successes = {task: [] for task in range(len(world.suite.tasks))}
    for seed in range(200):
        world.reset(seed)
        run_expert(world)
        successes[world.layout.task].append(world.is_success)
    for task, results in successes.items():
        assert np.mean(results) >= 0.97, world.suite.tasks[task]


@pytest.mark.parametrize("suite", ["reach", "place4"])
def test_doing_what_another_instruction_says_is_no_success(suite):
    world = Tabletop(suite)
    seed, num_tasks = 2, len(world.suite.tasks)
    world.reset(seed, task=0)
    actions = run_expert(world)
    assert world.is_success
    for task in range(1, num_tasks):
        world.reset(seed, task)
        assert not any(world.step(action) for action in actions), world.instruction


def test_a_cube_still_held_in_the_goal_is_no_success():
    world = Tabletop("place2")
    world.reset(4)
    actions = run_expert(world)
    assert world.is_success
    has_closed = np.cumsum([action[6] > 0 for action in actions]) > 0
    world.reset(4)
    for action, is_closed in zip(actions, has_closed, strict=True):
        action[6] = CLOSE if is_closed else OPEN
        assert not world.step(action)


def test_reaching_must_last_three_steps():
    world = Tabletop("reach")
    world.reset(0)
    expert = ScriptedExpert(world)
    at_goal = []
    for _ in range(12):
        is_success = world.step(expert.action())
        at_goal.append(world._is_at_goal())
        assert is_success == (at_goal[-3:] == [True] * 3)
    assert any(at_goal)


@pytest.mark.parametrize("axis", range(3))
def test_one_unit_of_action_moves_the_hand_by_one_step(axis):
    world = Tabletop("reach")
    world.reset(1)
    before = world.hand
    direction = np.eye(3)[axis]
    move(world, direction, 1)
    move(world, np.zeros(3), 3)
    np.testing.assert_allclose(world.hand - before, STEP_SIZE * direction, atol=2e-3)


def test_only_yaw_of_the_rotation_acts():
    world = Tabletop("reach")
    world.reset(1)
    before = world.state()
    for _ in range(4):
        world.step(np.array([0, 0, 0, 1, -1, 0, OPEN]))
    np.testing.assert_allclose(world.state(), before, atol=2e-3)
    world.step(np.array([0, 0, 0, 0, 0, 1, OPEN]))
    assert world.state()[5] > before[5] + 0.1


def test_gripper_opens_at_minus_one_and_closes_at_plus_one():
    world = Tabletop("place2")
    world.reset(0)
    move(world, np.zeros(3), 6, CLOSE)
    closed = world.state()
    move(world, np.zeros(3), 6, OPEN)
    opened = world.state()
    assert closed.shape == (8,)
    assert closed.dtype == np.float32
    np.testing.assert_allclose(closed[6:], 0, atol=4e-3)
    assert opened[6] > CUBE_HALF_SIZE
    np.testing.assert_allclose(opened[6], -opened[7], atol=1e-3)


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_environment_passes_the_checker_of_gymnasium(suite):
    env = gymnasium.make("lawm_hf/Tabletop-v0", suite=suite, image_size=32)
    check_env(env.unwrapped)


def test_environment_tells_success_and_stops():
    env = TabletopEnv("reach")
    env.reset(seed=3)
    assert env.task_description == "go to the yellow cube"
    expert, is_over = ScriptedExpert(env.world), False
    while not is_over:
        observation, reward, is_over, is_truncated, info = env.step(expert.action())
    assert info["is_success"]
    assert reward == 1
    assert not is_truncated
    assert observation["pixels"]["wrist"].shape == (64, 64, 3)


def test_environment_gives_up_after_the_steps_of_the_suite():
    env = TabletopEnv("reach", task=2)
    env.reset(seed=3)
    assert env.task_description == "go to the blue cube"
    up = np.array([0, 0, 1, 0, 0, 0, OPEN], np.float32)
    ends = [env.step(up)[2:4] for _ in range(SUITES["reach"].max_steps)]
    assert ends == [(False, False)] * (len(ends) - 1) + [(False, True)]


def test_environment_without_a_seed_goes_through_different_scenes():
    env = TabletopEnv("reach")
    env.reset(seed=0)
    layouts = []
    for _ in range(2):
        env.reset()
        layouts.append(env.world.layout.cube_xy)
    assert not np.array_equal(*layouts)


def test_bad_input_is_told_apart():
    with pytest.raises(ValueError, match="Did you mean `place4`"):
        Tabletop("place_4")
    with pytest.raises(ValueError, match="`image_size` must be a positive integer, got 0"):
        Tabletop("reach", 0)
    with pytest.raises(ValueError, match="`domain` must be one of robot, hand"):
        Tabletop("reach", domain="human")  # pyright: ignore[reportArgumentType]
    world = Tabletop("reach")
    with pytest.raises(ValueError, match=r"shape \(7,\).*got \(10, 7\)"):
        world.step(np.zeros((10, 7)))
    for wrong in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match=r"`action` must be finite, got .* Check the policy"):
            world.step(np.full(7, wrong))
    with pytest.raises(ValueError, match="`action` must be 7 numbers, got 'left'"):
        world.step("left")
    with pytest.raises(ValueError, match=r"`seed` must lie in \[0, 2\*\*32\), got -1"):
        world.reset(-1)
    with pytest.raises(ValueError, match="one of the 4 tasks"):
        world.reset(0, 4)
    with pytest.raises(ValueError, match="`view` must be one of front, wrist"):
        world.render("side")
