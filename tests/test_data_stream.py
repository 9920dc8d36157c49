# SPDX-License-Identifier: Apache-2.0
"""The order of samples: complete, disjoint, mixed as asked, and exactly resumable."""

import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import time
from unittest import mock

import numpy as np
import pytest
import torch
from fake_source import WINDOW, FakeSource, indices
from hypothesis import given, settings
from hypothesis import strategies as st

from lawm_hf.data import WindowDataset, WindowSpec, make_loader
from lawm_hf.training import FocusedLoader


def fake_mixture(known=True, bad=()):
    return [FakeSource("a", [9, 5, 7, 6, 8], bad, known), FakeSource("b", [4] * 9, (), known)]


def simulated(loader, num_batches):
    """What a `DataLoader` with `loader.num_workers` processes yields, in this process."""
    stream = loader.stream()
    pieces = [stream.pieces(worker) for worker in range(max(1, loader.num_workers))]
    batches = itertools.islice(loader.batches(zip(*pieces, strict=True)), num_batches)
    return [batch["index"].tolist() for batch in batches]


def flat(lists):
    """One list of several."""
    return list(itertools.chain.from_iterable(lists))


class Layout:
    """Loaders of all processes that share a global batch of 24."""

    def __init__(self, mixture, world, workers, accumulation, **options):
        self.accumulation = accumulation
        self.loaders = [
            make_loader(
                mixture,
                WINDOW,
                24 // world // accumulation,
                rank=rank,
                world_size=world,
                num_workers=workers,
                accumulation=accumulation,
                max_bad_share=1.0,
                **options,
            )
            for rank in range(world)
        ]

    def updates(self, count):
        """The samples of this many updates, whichever process read them."""
        ranks = [simulated(loader, count * self.accumulation) for loader in self.loaders]
        micro = [flat(parts) for parts in zip(*ranks, strict=True)]
        size = self.accumulation
        return [flat(micro[i : i + size]) for i in range(0, len(micro), size)]

    def state(self):
        """That of any rank."""
        first, *others = [loader.state_dict() for loader in self.loaders]
        assert all(other == first for other in others)
        return json.loads(json.dumps(first))


@settings(max_examples=20, deadline=None)
@given(data=st.data())
@mock.patch("lawm_hf.data.order._RUN", 4)  # blocks of 12 updates
def test_a_run_resumed_on_other_processes_and_workers_has_the_very_samples(data):
    options = {
        "weights": data.draw(st.lists(st.floats(0.1, 1.0), min_size=2, max_size=2)),
        "seed": data.draw(st.integers(0, 2**32)),
        "windows_per_visit": data.draw(st.sampled_from([None, 1, 2, 3, 8])),
    }
    known, bad = data.draw(st.booleans()), data.draw(st.sets(st.integers(0, 4), max_size=3))
    mixture, total = fake_mixture(known, bad), 20
    whole = Layout(mixture, 1, 0, 1, **options)
    expected, got = whole.updates(total), []
    cuts = sorted(data.draw(st.sets(st.integers(1, total - 1), max_size=3)))
    state = None
    for begin, end in itertools.pairwise([0, *cuts, total]):
        part = Layout(
            mixture,
            data.draw(st.integers(1, 4)),
            data.draw(st.integers(0, 4)),
            data.draw(st.integers(1, 2)),
            **options,
        )
        for loader in part.loaders if state else ():
            loader.load_state_dict(state)
        got += part.updates(end - begin)
        state = part.state()
    assert got == expected
    assert state == whole.state()
    assert not {clip for update in got for source, clip, _ in update if source == 0} & bad


def test_a_block_ends_and_an_update_is_cut_without_a_trace():
    options = {"weights": [0.2, 0.8], "windows_per_visit": 3}
    whole = Layout(fake_mixture(), 1, 0, 1, **options)
    total = whole.loaders[0].order.block_size // 24 + 5
    expected = whole.updates(total)
    first = Layout(fake_mixture(), 1, 0, 3, **options)
    got = simulated(first.loaders[0], 3 * (total - 7) + 1)  # one micro-batch of the update is done
    second = Layout(fake_mixture(), 2, 1, 3, **options)
    for loader in second.loaders:
        loader.load_state_dict(first.state())
    got += flat(zip(*[simulated(loader, 20) for loader in second.loaders], strict=True))
    assert flat(got) == flat(expected)
    with pytest.raises(ValueError, match="amid an update"):
        Layout(fake_mixture(), 1, 0, 1, **options).loaders[0].load_state_dict(first.state())


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 70),
    per_visit=st.integers(1, 9),
    seed=st.integers(0, 1000),
    by_file=st.booleans(),
)
def test_an_epoch_holds_every_window_once(batch, per_visit, seed, by_file):
    lengths = np.arange(3, 15)
    files = np.arange(12) // 2 if by_file else None
    options = {"windows_per_visit": per_visit, "seed": seed}
    loader = make_loader(FakeSource("a", lengths, files=files), WINDOW, batch, **options)
    num_windows = int((lengths - 1).sum())
    order = loader.order
    _, numbers = order.deal(3, np.array([5]))
    assert sorted(numbers) == list(range(5, 5 + order.block_size))  # dealt, each once
    (visits,) = loader._visits
    for epoch in (0, 4):
        places = visits.locate(epoch * num_windows + np.arange(num_windows))
        assert set(places[:, 0]) == {epoch}
        seen = [(int(visits.clips[v]), int(visits.starts(epoch, v)[p])) for _, v, p in places]
        assert sorted(seen) == [(c, t) for c, n in enumerate(lengths) for t in range(n - 1)]


def test_windows_of_a_visit_stay_with_one_reader_and_a_batch_holds_many_clips():
    source = FakeSource("a", [9] * 800)
    calls = []
    decode = source.decode
    source.decode = lambda clip, *args: (calls.append(clip), decode(clip, *args))[1]
    options = {"cache_bytes": 0, "windows_per_visit": 8, "world_size": 2, "num_workers": 3}
    for rank in (0, 1):
        loader = make_loader(source, WINDOW, 24, rank=rank, **options)
        batches = simulated(loader, 126)  # of a block of 6,144 windows
        assert min(len({clip for _, clip, _ in batch}) for batch in batches) >= 18
    assert len(calls) <= 6144 / 8 + 6


def test_one_process_keeps_the_order_of_windows_that_runs_so_far_have_had():
    def digest(*args, **options):
        order = json.dumps(indices(make_loader(*args, **options), 200))
        return hashlib.sha256(order.encode()).hexdigest()[:8]

    by_file = FakeSource("a", [9, 5, 7, 6] * 10, files=np.arange(40) // 2)
    assert digest(FakeSource("a", [9, 5, 7, 6, 8] * 20), WINDOW, 7, seed=3) == "7781f263"
    assert digest(by_file, WINDOW, 7, seed=3) == "ef825181"
    assert digest(fake_mixture(), WINDOW, 7, seed=5, weights=[0.3, 0.7]) == "16ab5538"


def test_epochs_differ_and_seeds_differ():
    source = FakeSource("a", [9] * 4)  # 32 windows
    order = [i[0][1:] for i in indices(make_loader(source, WINDOW, 1), 64)]
    assert sorted(order[:32]) == sorted(order[32:])
    assert order[:32] != order[32:]
    assert indices(make_loader(source, WINDOW, 1, seed=1), 32) != [[i] for i in order[:32]]


def test_files_of_a_remote_set_are_visited_one_group_after_another():
    source = FakeSource("a", [5] * 80, files=np.arange(80) // 4)  # 20 files
    (visits,) = make_loader(source, WINDOW, 1, windows_per_visit=4)._visits
    files = visits.clips[visits.locate(np.arange(320))[:, 1]] // 4
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


def test_another_batch_or_file_list_is_refused_or_restarted_at_an_epoch():
    loader = make_loader(FakeSource("a", [9] * 4), WINDOW, 8)
    indices(loader, 5)  # 40 of 32 windows: in the second epoch
    state = json.loads(json.dumps(loader.state_dict()))
    for other, reason in (
        (make_loader(FakeSource("a", [9] * 4), WINDOW, 8, world_size=2), "batch_size × processes"),
        (make_loader(FakeSource("a", [9, 9, 9, 8]), WINDOW, 8), "sources was"),
        (make_loader(FakeSource("a", [9] * 4), WINDOW, 8, seed=1), "seed was 0 and is 1"),
    ):
        with pytest.raises(ValueError, match=f"{reason}.*next_epoch"):
            other.load_state_dict(state)
        other.load_state_dict(state, next_epoch=True)
        assert other.epochs() == {"a": 2.0}
        indices(other, 1)
    same = make_loader(FakeSource("a", [9] * 4), WINDOW, 4, world_size=2)
    same.load_state_dict(state)
    assert same.epochs() == {"a": 1.25}


def test_the_focus_ends_with_the_same_update_for_any_number_of_micro_batches():
    def make(accumulation):
        options = {"accumulation": accumulation, "seed": 1}
        focus, full = (
            make_loader(FakeSource(name, [9] * 4), WINDOW, 8 // accumulation, **options)
            for name in ("focus", "full")
        )
        return FocusedLoader(focus, full, 2)

    expected = flat(indices(make(1), 6))
    first, second = make(4), make(2)
    got = indices(first, 12)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert flat([*got, *indices(second, 6)]) == expected
    assert second.progress() == {"epoch": 6 * 8 / 32, "skipped": 0}


def test_a_position_of_an_earlier_version_is_refused_or_restarted_at_an_epoch():
    position = {"samples": 40, "sources": [{"epoch": 1, "block": 0, "offset": 8, "seen": 40}]}
    state = {"settings": {"num_parts": 1}, "next_worker": 0, "positions": [position]}
    loader = make_loader(FakeSource("a", [9] * 4), WINDOW, 8)
    with pytest.raises(ValueError, match=r"an earlier version.*next_epoch"):
        loader.load_state_dict(state)
    loader.load_state_dict(state, next_epoch=True)
    assert loader.epochs() == {"a": 2.0}


def test_more_workers_than_samples_and_fewer_visits_than_either_are_no_matter():
    loader = make_loader(FakeSource("a", [3]), WINDOW, 2, num_workers=5)
    assert loader.num_workers == 2
    assert sorted(simulated(loader, 1)[0]) == [[0, 0, 0], [0, 0, 1]]


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


def test_a_clip_that_does_not_open_has_no_window_by_number():
    source = FakeSource("a", [9] * 10, known=False)
    length = source.length
    source.length = lambda clip: length(clip) if clip != 4 else int("not a number")
    data = WindowDataset(source, WINDOW)
    assert len(data) == 72
    assert {int(data[i]["index"][1]) for i in range(72)} == set(range(10)) - {4}


def test_names_that_are_not_utf_8_have_a_fingerprint_and_a_manifest(tmp_path):
    source = FakeSource(os.fsdecode(b"caf\xe9"), [9] * 4)
    assert source.fingerprint() != FakeSource("cafe", [9] * 4).fingerprint()
    for _ in range(2):  # written, then read
        chosen = source.select(fraction=0.5, manifest=str(tmp_path / "names.json"))
        assert len(chosen.clips) == 2
    json.dumps(make_loader(source, WINDOW, 2).state_dict())
