# SPDX-License-Identifier: Apache-2.0
"""The order of samples: complete, disjoint, mixed as asked, and exactly resumable."""

import itertools
import json
import logging
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lawm_hf.data import Features, Source, WindowSpec, make_loader
from lawm_hf.data.bad_clips import too_many_bad
from lawm_hf.data.stream import WindowStream

WINDOW = WindowSpec(chunk_size=2, image_size=2, with_frames=True)


class FakeSource(Source):
    """Pictures whose pixels are the frame number. Clips in `bad` cannot be decoded."""

    def __init__(self, name, lengths, bad=(), known=True, files=None, action_size=0, state_size=0):
        self.name, self.bad, self._lengths = name, set(bad), np.asarray(lengths)
        self.features = Features(10.0, ("camera",), state_size, action_size)
        self.lengths = self._lengths if known else None
        self.clips = np.arange(len(lengths))
        self.files = files

    def clip_name(self, clip):
        return f"{self.name}/{clip}"

    def task(self, clip):
        return "lift"

    def length(self, clip):
        return int(self._lengths[clip])

    def decode(self, clip, camera, indices, size, resize):
        if clip in self.bad:
            raise OSError("broken")
        frames = np.empty((len(indices), 3, size, size), np.uint8)
        frames[:] = indices[:, None, None, None]
        return frames


def fake_mixture(known=True, bad=()):
    return [FakeSource("a", [9, 5, 7, 6, 8], bad, known), FakeSource("b", [4] * 9, (), known)]


def indices(loader, num_batches):
    """Which samples the next batches hold."""
    return [b["index"].tolist() for b in itertools.islice(iter(loader), num_batches)]


def simulated(loader, num_batches):
    """What a `DataLoader` with `loader.num_workers` processes yields, in this process."""
    workers = max(1, loader.num_workers)
    stream = WindowStream(
        loader.readers,
        loader.order,
        batch_size=loader.batch_size,
        rank=loader.rank,
        num_workers=workers,
        positions=loader._positions,
        first_worker=loader._next_worker,
        max_bad_share=loader.max_bad_share,
    )
    turns = [stream.batches((w + loader._next_worker) % workers) for w in range(workers)]
    batches = []
    for turn in itertools.islice(itertools.cycle(turns), num_batches):
        worker, position, batch = next(turn)
        loader._positions = [*loader._positions]
        loader._positions[worker], loader._next_worker = position, (worker + 1) % workers
        batches.append(batch["index"].tolist())
    return batches


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_resumed_order_is_the_uninterrupted_one(data):
    world = data.draw(st.integers(1, 3))
    options = {
        "weights": data.draw(st.lists(st.floats(0.1, 1.0), min_size=2, max_size=2)),
        "seed": data.draw(st.integers(0, 2**32)),
        "world_size": world,
        "rank": data.draw(st.integers(0, world - 1)),
        "num_workers": data.draw(st.integers(0, 1 if world > 1 else 4)),
        "windows_per_visit": data.draw(st.integers(1, 3)),
        "visits_per_block": data.draw(st.integers(1, 5)),
        "max_bad_share": 1.0,
    }
    known, bad = data.draw(st.booleans()), data.draw(st.sets(st.integers(0, 3), max_size=2))

    def make():
        return make_loader(fake_mixture(known, bad), WINDOW, 3, **options)

    whole, resumed, total = make(), make(), 24
    expected, got = simulated(whole, total), []
    cuts = sorted(data.draw(st.sets(st.integers(1, total - 1), max_size=4)))
    for begin, end in itertools.pairwise([0, *cuts, total]):
        got += simulated(resumed, end - begin)
        state = json.loads(json.dumps(resumed.state_dict()))
        resumed = make()
        resumed.load_state_dict(state)
    assert got == expected
    assert resumed.state_dict() == whole.state_dict()  # the counts of bad windows too


@settings(max_examples=25, deadline=None)
@given(
    world=st.integers(1, 4),
    workers=st.integers(1, 3),
    per_visit=st.integers(1, 4),
    seed=st.integers(0, 1000),
    by_file=st.booleans(),
)
def test_an_epoch_holds_every_window_once_over_all_ranks_and_workers(
    world, workers, per_visit, seed, by_file
):
    lengths = np.arange(3, 15)
    files = np.arange(12) // 2 if by_file else None
    options = {"world_size": world, "num_workers": workers, "seed": seed}
    seen = []
    for rank in range(world):
        loader = make_loader(
            FakeSource("a", lengths, files=files),
            WINDOW,
            1,
            rank=rank,
            windows_per_visit=per_visit,
            visits_per_block=3,
            **options,
        )
        stream = WindowStream(
            loader.readers,
            loader.order,
            batch_size=1,
            rank=rank,
            num_workers=workers,
            positions=loader._positions,
            first_worker=0,
            max_bad_share=0.0,
        )
        for worker in range(workers):
            taken = 0
            for _, position, batch in stream.batches(worker):
                if position["sources"][0]["epoch"] > 0:  # this one belongs to the next epoch
                    break
                seen.append(tuple(batch["index"][0].tolist()[1:]))
                taken += 1
            assert taken > 0, "a worker sat idle"
    assert sorted(seen) == [(c, t) for c, n in enumerate(lengths) for t in range(n - 1)]


def test_epochs_differ_and_seeds_differ():
    source = FakeSource("a", [9] * 4)  # 32 windows
    order = [i[0][1:] for i in indices(make_loader(source, WINDOW, 1), 64)]
    assert sorted(order[:32]) == sorted(order[32:])
    assert order[:32] != order[32:]
    assert indices(make_loader(source, WINDOW, 1, seed=1), 32) != [[i] for i in order[:32]]


def test_files_of_a_remote_set_are_visited_one_group_after_another():
    source = FakeSource("a", [5] * 80, files=np.arange(80) // 4)  # 20 files
    loader = make_loader(source, WINDOW, 1, windows_per_visit=4, visits_per_block=16)
    files = [i[0][1] // 4 for i in indices(loader, 320)]
    groups = [set(files[k : k + 64]) for k in range(0, 320, 64)]
    assert all(len(g) == 4 for g in groups)


def test_weights_are_probabilities_per_sample():
    loader = make_loader(fake_mixture(), WINDOW, 50, weights=[3.0, 1.0])
    share = np.mean([i[0] == 0 for batch in indices(loader, 80) for i in batch])
    assert abs(share - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 4000)
    epochs = loader.epochs()
    assert epochs["a"] == pytest.approx(3000 / 30, rel=0.1)  # 30 windows in the set
    assert epochs["b"] == pytest.approx(1000 / 27, rel=0.1)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_worker_processes_and_prefetching_do_not_change_what_is_resumed(num_workers):
    def make():
        return make_loader(
            fake_mixture(), WINDOW, 4, num_workers=num_workers, weights=[0.3, 0.7], cache_bytes=0
        )

    expected = simulated(make(), 12)
    first = make()
    got = indices(first, 5)
    resumed = make()
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert got + indices(resumed, 7) == expected


def consume(folder, rank, num_batches, pause):
    """Append the samples of each batch to a log, then replace the saved state: both or neither."""
    loader = make_loader(
        fake_mixture(bad=[1]),
        WINDOW,
        4,
        rank=rank,
        world_size=2,
        num_workers=2,
        max_bad_share=1.0,
        cache_bytes=0,
    )
    state, done = folder / f"state{rank}.json", []
    if state.exists():
        saved = json.loads(state.read_text())
        done = saved["done"]
        loader.load_state_dict(saved["loader"])
    if len(done) >= num_batches:  # it had come to its end before it was killed
        os._exit(0)
    for batch in loader:
        done.append(batch["index"].tolist())
        partial = state.with_suffix(".partial")
        partial.write_text(json.dumps({"done": done, "loader": loader.state_dict()}))
        partial.replace(state)
        if len(done) >= num_batches:
            os._exit(0)
        time.sleep(pause)


def test_two_processes_killed_at_any_moment_resume_with_the_samples_that_would_have_come(tmp_path):
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    total, kills = 30, (0.6, 0.35, 0.8)
    for wait in (*kills, None):
        pause = 0.02 if wait else 0.0
        processes = [
            context.Process(target=consume, args=(tmp_path, rank, total, pause)) for rank in (0, 1)
        ]
        for process in processes:
            process.start()
        if wait:
            time.sleep(wait)
            for process in processes:
                os.kill(process.pid, signal.SIGKILL)
        for process in processes:
            process.join(120)
    for rank in (0, 1):
        done = json.loads((tmp_path / f"state{rank}.json").read_text())["done"]
        expected = simulated(
            make_loader(
                fake_mixture(bad=[1]),
                WINDOW,
                4,
                rank=rank,
                world_size=2,
                num_workers=2,
                max_bad_share=1.0,
                cache_bytes=0,
            ),
            total,
        )
        assert done == expected


def test_another_world_size_or_file_list_is_refused_or_restarted_at_an_epoch():
    loader = make_loader(FakeSource("a", [9] * 4), WINDOW, 8)
    indices(loader, 5)  # 40 of 32 windows: in the second epoch
    state = loader.state_dict()
    for other in (
        make_loader(FakeSource("a", [9] * 4), WINDOW, 8, world_size=2),
        make_loader(FakeSource("a", [9, 9, 9, 8]), WINDOW, 8),
        make_loader(FakeSource("a", [9] * 4), WINDOW, 8, seed=1),
    ):
        with pytest.raises(ValueError, match="next_epoch=True"):
            other.load_state_dict(state)
        other.load_state_dict(state, next_epoch=True)
        assert other.epochs() == {"a": 2.0}
        indices(other, 1)


def test_bad_clips_are_skipped_counted_and_named(caplog):
    source = FakeSource("a", [9] * 10, bad=[3])
    loader = make_loader(source, WINDOW, 8, max_bad_share=0.2)
    with caplog.at_level(logging.WARNING):
        clips = {i[1] for batch in indices(loader, 9) for i in batch}
    assert clips == set(range(10)) - {3}
    assert loader.num_bad() == {"a": 8}
    assert "Skipped a/3 of a: broken" in caplog.text


@pytest.mark.parametrize("known", [True, False])
def test_too_many_bad_clips_are_an_error_that_names_the_last(known):
    source = FakeSource("a", [9] * 10, bad=range(4), known=known)
    with pytest.raises(RuntimeError, match=r"windows of a are bad.*max_bad_share.*a/[0-3]: broken"):
        indices(make_loader(source, WINDOW, 8, max_bad_share=0.2, cache_bytes=0), 100)


def test_too_few_clips_for_the_workers_is_an_error():
    with pytest.raises(ValueError, match="Use fewer workers"):
        indices(make_loader(FakeSource("a", [3]), WINDOW, 1, world_size=8), 1)


def test_sources_that_cannot_be_mixed_are_refused():
    with_actions = WindowSpec(chunk_size=2, image_size=2, with_actions=True)
    a, b = FakeSource("a", [9], action_size=7), FakeSource("b", [9], action_size=6)
    with pytest.raises(ValueError, match="actions of one size"):
        make_loader([a, b], with_actions, 1)
    with pytest.raises(ValueError, match="positive weight"):
        make_loader([a, b], WINDOW, 1, weights=[1.0])
    with pytest.raises(ValueError, match="has none"):
        make_loader([FakeSource("c", [9])], with_actions, 1)


def test_a_source_that_fits_in_memory_is_decoded_once():
    source = FakeSource("a", [9] * 4)
    calls = []
    decode = source.decode
    source.decode = lambda clip, *args: (calls.append(clip), decode(clip, *args))[1]
    indices(make_loader(source, WINDOW, 8), 20)
    assert sorted(calls) == [0, 1, 2, 3]


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
