# SPDX-License-Identifier: Apache-2.0
"""Aggregation of chunks, intervals, and episodes in lockstep."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from lawm_hf.evaluation import (
    ChunkAggregator,
    EpisodeResult,
    rollout,
    summarize,
    wilson_interval,
    write_results,
)


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

    def reset(self, seed):
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

    monkeypatch.setattr("lawm_hf.evaluation.predict", echo)

    class Policy:
        class config:  # noqa: N801
            chunk_size, action_size = 2, 1

        def eval(self):
            pass

    results = rollout(Policy(), None, CountingEnv, seeds=[4, 0, 2, 7, 1], views=[], lockstep=3)
    assert [(r.seed, r.length, r.is_success) for r in results] == [
        (4, 5, True),
        (0, 1, True),
        (2, 3, True),
        (7, 8, True),
        (1, 2, True),
    ]
