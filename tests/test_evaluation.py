# SPDX-License-Identifier: Apache-2.0
"""Aggregation of chunks, intervals, and episodes in lockstep."""

import importlib
import json
import resource
import signal

import gymnasium
import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from lawm_hf.evaluation.results import (
    EpisodeResult,
    FailureVideos,
    Trial,
    append_result,
    read_results,
    start_results,
    summarize,
    write_results,
)
from lawm_hf.evaluation.rollout import ChunkAggregator, rollout
from lawm_hf.metrics import wilson_interval
from lawm_hf.writing.atomic import unlock_folder

# The package's attribute of that name is the function.
rollout_module = importlib.import_module("lawm_hf.evaluation.rollout")


def chunk(first: float, horizon: int = 3) -> np.ndarray:
    """A chunk whose action for absolute step t is `first` + t's offset, for one episode."""
    return (first + np.arange(horizon, dtype=float)).reshape(1, horizon, 1)


def test_uniform_aggregation_averages_all_predictions_of_the_step():
    aggregator = ChunkAggregator("uniform")
    aggregator.add(chunk(0))
    assert aggregator.next_action() == 0
    aggregator.add(chunk(10))
    assert aggregator.next_action() == pytest.approx((1 + 10) / 2)
    aggregator.add(chunk(20))
    assert aggregator.next_action() == pytest.approx((2 + 11 + 20) / 3)
    aggregator.add(chunk(30))  # the first chunk has run out
    assert aggregator.next_action() == pytest.approx((12 + 21 + 30) / 3)


def test_a_chunk_that_runs_out_between_two_calls_is_left_out_of_the_average():
    aggregator, executed = ChunkAggregator("uniform", n_action_steps=2), []
    for start in (0, 10):
        aggregator.add(chunk(start))
        executed += [aggregator.next_action().item(), aggregator.next_action().item()]
    assert executed == [0, 1, (2 + 10) / 2, 11]


def test_exponential_aggregation_favours_the_newest_chunk():
    aggregator = ChunkAggregator("exponential", decay=1.0)
    aggregator.add(chunk(0))
    aggregator.next_action()
    aggregator.add(chunk(10))
    expected = (10 + np.exp(-1) * 1) / (1 + np.exp(-1))
    assert aggregator.next_action() == pytest.approx(expected)


def test_without_aggregation_a_chunk_is_executed_before_the_next_is_asked_for():
    aggregator, executed = ChunkAggregator("none", n_action_steps=2), []
    for start in (0, 10):
        assert aggregator.needs_chunk
        aggregator.add(chunk(start))
        executed += [aggregator.next_action().item(), aggregator.next_action().item()]
    assert executed == [0, 1, 10, 11]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregation": "unifrom"}, "uniform"),
        ({"n_action_steps": 0}, "n_action_steps"),
    ],
)
def test_a_wrong_aggregation_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        ChunkAggregator(**options)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (5, 10), (10, 10), (389, 400)])
def test_the_wilson_interval_is_the_textbook_one(successes, trials):
    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx(
        (expected.low, expected.high), abs=1e-4
    )


def test_results_are_written_one_line_per_episode_with_rates_by_task(tmp_path):
    results = [EpisodeResult(s, f"task {s % 2}", s < 3, 5) for s in range(4)]
    write_results(results, tmp_path)
    lines = [json.loads(x) for x in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == [0, 1, 2, 3]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == summarize(results)
    assert summary["success_rate"] == 0.75
    assert summary["per_task"]["task 1"]["successes"] == 1


class CountingEnv:
    """Ends after `seed + 1` steps; succeeds if every action equalled the seed."""

    task_description = "count"

    @property
    def unwrapped(self):
        return self

    def reset(self, seed, options=None):
        self.seed, self.steps, self.right = seed, 0, True
        return self._observation(), {}

    def _observation(self):
        return {"pixels": {"front": np.zeros((8, 8, 3), np.uint8)}, "agent_pos": [self.seed / 10]}

    def step(self, action):
        self.steps += 1
        self.right &= bool(np.isclose(action[0], self.seed / 10, atol=1e-6))
        return self._observation(), 0.0, self.steps > self.seed, False, {"is_success": self.right}

    def close(self):
        pass


def test_episodes_in_lockstep_keep_their_own_observations_actions_and_lengths(monkeypatch):
    def echo(policy, processor, observations, tasks, views):
        seeds = np.array([o["agent_pos"][0] for o in observations])
        return np.broadcast_to(seeds[:, None, None], (len(seeds), 2, 1))

    monkeypatch.setattr(rollout_module, "predict", echo)

    trials, ended = [Trial(seed) for seed in (4, 0, 2, 7, 1)], []
    results = rollout(
        Chunks(), None, CountingEnv, trials, views=[], lockstep=3, on_end=ended.append
    )
    assert [r.seed for r in ended] == [0, 2, 4, 1, 7], "told as each ends, not group by group"
    assert [(r.seed, r.length, r.is_success) for r in results] == [
        (4, 5, True),
        (0, 1, True),
        (2, 3, True),
        (7, 8, True),
        (1, 2, True),
    ]


def result(init_state: int, is_success: bool = False, seed: int = 0) -> EpisodeResult:
    return EpisodeResult(seed, "open it", is_success, 9, "libero_goal", 3, init_state)


def test_an_interrupted_evaluation_keeps_its_episodes_but_not_a_line_cut_off(tmp_path):
    start_results(tmp_path, {"views": ("image",)}, resume=False)
    for state in range(3):
        append_result(result(state), tmp_path)
    with (tmp_path / "episodes.jsonl").open("a") as file:
        file.write('{"seed": 0, "task": "op')
    start_results(tmp_path, {"views": ("image",)}, resume=True)
    append_result(result(3), tmp_path)
    assert read_results(tmp_path) == [result(state) for state in range(4)]
    assert read_results(tmp_path)[3].trial == Trial(0, "libero_goal", 3, 3)


def test_without_resume_results_begin_anew(tmp_path):
    start_results(tmp_path, {}, resume=False)
    append_result(result(0), tmp_path)
    unlock_folder(tmp_path)
    start_results(tmp_path, {"image_size": 64}, resume=False)
    assert read_results(tmp_path) == []


def test_episodes_of_another_policy_are_not_resumed(tmp_path):
    start_results(tmp_path, {"policy_fingerprint": "aa", "env": "libero"}, resume=False)
    append_result(result(0), tmp_path)
    with pytest.raises(ValueError, match="played with policy_fingerprint='aa'"):
        start_results(tmp_path, {"policy_fingerprint": "bb", "env": "libero"}, resume=True)


def test_a_setting_that_an_older_version_did_not_know_is_no_change(tmp_path):
    start_results(tmp_path, {"views": ["a"], "fast_rendering": False}, resume=False)
    append_result(result(0), tmp_path)
    start_results(tmp_path, {"views": ["a"], "colour": ""}, resume=True)
    assert read_results(tmp_path) == [result(0)]


def test_a_second_evaluation_in_the_folder_of_the_first_is_refused(tmp_path):
    start_results(tmp_path, {"policy_fingerprint": "aa"}, resume=False)
    append_result(result(0), tmp_path)
    with pytest.raises(BlockingIOError, match="one writer at a time"):
        start_results(tmp_path, {"policy_fingerprint": "bb"}, resume=False)
    assert read_results(tmp_path) == [result(0)]


def test_a_full_disk_loses_no_episode(tmp_path):
    results = [result(state) for state in range(150)]
    start_results(tmp_path, {}, resume=False)
    for each in results:
        append_result(each, tmp_path)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        for act in (
            lambda: start_results(tmp_path, {}, resume=True),
            lambda: write_results(results, tmp_path),
        ):
            with pytest.raises(OSError, match="File too large"):
                act()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert read_results(tmp_path) == results


BY_HAND = b'{"seed": 1, "task": "go", "is_success": "no", "length": 3}\n'


@pytest.mark.parametrize(
    "line", [b"\x00\x00\n", b'{"seed": 1}\n', b'{"seed": 0, "ta{}\n', b"[]\n", BY_HAND]
)
def test_a_damaged_line_is_named(tmp_path, line):
    append_result(result(0), tmp_path)
    with (tmp_path / "episodes.jsonl").open("ab") as file:
        file.write(line)
    append_result(result(1), tmp_path)
    with pytest.raises(ValueError, match=r"Line 2 of .*episodes\.jsonl .*Delete the line"):
        read_results(tmp_path)


def test_an_evaluation_of_nothing_has_no_summary(tmp_path):
    with pytest.raises(ValueError, match="at least one episode"):
        write_results([], tmp_path)
    assert not list(tmp_path.iterdir())


class Chunks:
    """A policy with chunks of two actions of one number."""

    class config:  # noqa: N801
        chunk_size, action_size = 2, 1
        aggregation, n_action_steps = "none", 1

    name_or_path = "me/broken"

    def eval(self):
        pass

    def named_parameters(self):
        yield from (("trunk.weight", torch.ones(1)), ("head.weight", torch.tensor([np.nan])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lockstep": 0}, "`lockstep` must be at least 1"),
        ({"n_action_steps": 3}, "at most the policy's chunk of 2 actions, got 3"),
    ],
)
def test_a_rollout_that_cannot_be_played_is_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        rollout(Chunks(), None, None, [Trial(0)], views=[], **options)


def test_a_chunk_shorter_than_what_is_executed_is_refused():
    with pytest.raises(ValueError, match="chunk of 3 actions, got 4"):
        ChunkAggregator(n_action_steps=4).add(chunk(0))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_actions_that_are_not_finite_are_an_error_that_names_the_policy(monkeypatch, value):
    monkeypatch.setattr(rollout_module, "predict", lambda *a: np.full((1, 2, 1), value))
    with pytest.raises(ValueError, match=r"me/broken.*2 that are not.*`head.weight`"):
        rollout(Chunks(), None, CountingEnv, [Trial(0)], views=[])


def test_actions_are_bounded_by_the_environment_not_by_one(monkeypatch):
    monkeypatch.setattr(rollout_module, "predict", lambda *a: np.full((1, 2, 1), 300.0))

    class Pixels(CountingEnv):
        """Actions are coordinates of a picture."""

        action_space = gymnasium.spaces.Box(0, 200, (1,), np.float32)

        def step(self, action):
            executed.append(float(action[0]))
            return super().step(action)

    executed = []
    rollout(Chunks(), None, Pixels, [Trial(1)], views=[])
    assert executed == [200, 200]


def test_pictures_are_asked_for_when_the_policy_or_a_video_will_look(monkeypatch):
    monkeypatch.setattr(rollout_module, "predict", lambda *a: np.zeros((1, 2, 1)))

    class Drawn(CountingEnv):
        draws_next = True

        def step(self, action):
            asked.append(self.draws_next)
            return super().step(action)

    for on_step, expected in ((None, [False, True] * 2), (lambda *_: None, [True] * 4)):
        asked = []
        options = {"n_action_steps": 2, "on_step": on_step}
        rollout(Chunks(), None, Drawn, [Trial(3)], views=[], **options)
        assert asked == expected


def test_the_first_failures_become_videos(tmp_path):
    import av

    videos = FailureVideos(tmp_path, count=1, fps=20)
    for state, is_success in enumerate((True, False, False)):
        ended = result(state, is_success)
        for step in range(5):
            view = np.full((16, 16, 3), 50 * step, np.uint8)
            videos.add_frame(ended.trial, {"pixels": {"image": view, "image2": view}})
        videos.end_episode(ended)
    (path,) = tmp_path.glob("*.mp4")
    assert path.name == "failure_libero_goal_3_1_0.mp4"
    with av.open(str(path)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 5
    assert frames[4].shape == (16, 32, 3)
    assert abs(frames[4].mean() - 200) < 5
