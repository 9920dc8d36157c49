# SPDX-License-Identifier: Apache-2.0
"""Clips that cannot be used: skipped, counted and named, and refused when they are too many."""

import itertools
import logging

import numpy as np
import pytest
from fake_source import WINDOW, FakeSource, indices

from lawm_hf.data import WindowDataset, WindowSpec, make_loader
from lawm_hf.data.bad_clips import too_many_bad
from lawm_hf.data.dataset import iterate_windows


def test_bad_clips_are_skipped_counted_and_named(caplog):
    source = FakeSource("a", [9] * 10, bad=[3])
    loader = make_loader(source, WINDOW, 8, max_bad_share=0.2)
    with caplog.at_level(logging.WARNING):
        clips = {i[1] for batch in indices(loader, 9) for i in batch}
    assert clips == set(range(10)) - {3}
    assert loader.num_bad() == {"a": 8}
    assert loader.progress() == {"epoch": 0.9, "skipped": 8}
    assert caplog.text.count("Skipped a/3 of a: broken") == 1


@pytest.mark.parametrize("known", [True, False])
def test_too_many_bad_clips_are_an_error_that_names_the_last(known):
    source = FakeSource("a", [9] * 30, bad=range(20), known=known)
    with pytest.raises(RuntimeError, match=r"clips of a are bad.*max_bad_share.*a/1?[0-9]: broken"):
        indices(make_loader(source, WINDOW, 8, max_bad_share=0.2, cache_bytes=0), 100)


@pytest.mark.parametrize("known", [True, False])
def test_a_source_without_a_single_good_clip_ends_in_an_error_whatever_is_accepted(known):
    loader = make_loader(
        FakeSource("a", [9] * 2, bad=[0, 1], known=known), WINDOW, 8, max_bad_share=1.0
    )
    with pytest.raises(RuntimeError, match="2 of 2 clips of a are bad"):
        indices(loader, 1)
    with pytest.raises(ValueError, match=r"No clip of a is long enough.*chunk_size"):
        make_loader(FakeSource("a", [1]), WINDOW, 8)


def test_one_bad_clip_of_few_does_not_end_a_run_however_often_it_comes():
    source = FakeSource("a", [9] * 10, bad=[3])  # 10 % of so few say little
    loader = make_loader(source, WINDOW, 80, cache_bytes=0, windows_per_visit=4)
    indices(loader, 30)
    assert loader.num_bad()["a"] > 100


def test_the_share_of_bad_clips_is_judged_with_its_uncertainty():
    assert not too_many_bad(1, 1)  # the first clip says little of the others
    assert not too_many_bad(2, 3)
    assert too_many_bad(3, 3)
    assert not too_many_bad(13, 100)
    assert too_many_bad(14, 100)
    assert too_many_bad(1, 10**6, share=0.0)
    assert not too_many_bad(5, 5, share=1.0)
    rng = np.random.default_rng(0)
    stopped = sum(
        any(too_many_bad(int(n), i) for i, n in enumerate(np.cumsum(rng.random(1000) < 0.03), 1))
        for _ in range(100)
    )
    assert stopped <= 2  # of 100 runs over a source of which 3 % is bad


class RowSource(FakeSource):
    """With states and actions; those of some clips are replaced."""

    def __init__(self, num_clips, replaced):
        super().__init__("a", [4] * num_clips, action_size=2, state_size=3)
        self.replaced = replaced

    def low_dim(self, clip):
        state, actions = self.replaced.get(clip, (np.zeros((4, 3)), np.ones((4, 2))))
        if isinstance(state, Exception):
            raise state
        return state, actions


@pytest.mark.parametrize(
    "rows",
    [
        (OSError("broken"), None),
        (np.zeros((4, 3)), np.full((4, 2), np.nan)),
        (np.full((4, 3), np.inf), np.ones((4, 2))),
        (np.zeros((4, 2)), np.ones((4, 2))),  # a number is missing
        (np.zeros((4, 3)), np.ones((0, 2))),
        (None, np.ones((4, 2))),
        (np.zeros((2, 3)), np.ones((4, 2))),  # rows are missing
        (np.zeros((4, 3)), None),
    ],
)
def test_unsound_rows_make_a_bad_clip_for_every_reader(rows, caplog):
    source = RowSource(20, {0: rows})
    window = WindowSpec(chunk_size=2, image_size=2, with_actions=True)
    loader = make_loader(source, window, 8)
    for batch in itertools.islice(iter(loader), 20):
        assert batch["actions"].eq(1).all()
        assert batch["state"].eq(0).all()
    assert loader.num_bad()["a"] > 0
    assert "Skipped a/0 of a" in caplog.text
    stats = source.stats()
    assert stats["actions"]["mean"].tolist() == [1, 1]
    assert stats["state"]["max"].tolist() == [0, 0, 0]
    data = WindowDataset(source, window)
    assert [data[i]["index"].tolist()[1:] for i in (0, 3, 4, 79)] == [[1, 0]] * 3 + [[19, 3]]
    assert list(data.bad.bad) == [0]
    clips = {int(s["index"][1]) for s in iterate_windows(source, window, list(range(20)))}
    assert clips == set(range(1, 20))


def test_statistics_of_a_source_that_is_mostly_bad_are_refused():
    bad = (np.zeros((4, 3)), np.full((4, 2), np.nan))
    with pytest.raises(RuntimeError, match=r"3 of 3 clips of a are bad.*a/2: actions not finite"):
        RowSource(6, dict.fromkeys(range(5), bad)).stats()


def test_a_fill_value_makes_a_bad_clip_and_a_far_outlier_is_named(caplog):
    rng = np.random.default_rng(0)
    clips = {i: (np.zeros((4, 3)), rng.uniform(-1, 1, (4, 2))) for i in range(200)}
    clips[7][1][2, 1] = 1e30
    found = RowSource(200, clips).stats()["actions"]
    assert found["max"].max() < 1, "the clip does not count"
    assert "a/7 of a: actions not finite, or beyond" in caplog.text
    assert "reaches from" not in caplog.text
    clips[7][1][2, 1] = 9999
    assert RowSource(200, clips).stats()["actions"]["max"][1] == 9999, "it may be meant"
    assert "Dimension 1 of the actions of a reaches from -" in caplog.text
    assert "Dimension 0" not in caplog.text
