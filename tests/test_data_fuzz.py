# SPDX-License-Identifier: Apache-2.0
"""200 damaged files of all kinds: nothing crashes, nothing wrong comes out, skips are counted."""

import os
import shutil

import numpy as np
import pytest
from data_fixtures import build_all, copy_set, read_stamp
from test_data_sources import FORMATS, expected_stamp

from lawm_hf.data import WindowSpec, make_loader, open_source

DATA_SUFFIXES = (".mp4", ".webm", ".tar", ".parquet", ".jpg", ".pkl", ".hdf5")
DAMAGES = ("cut", "zeroed", "emptied", "replaced", "removed", "header")
# HDF5 stores LIBERO's pixels bare, without checksums: zeros among them cannot be told from black.
UNDETECTABLE = {"libero": "zeroed"}
# `LAWM_FUZZ=1000` for the figures in the documents: damaged files of all formats together.
ROUNDS = -(-int(os.environ.get("LAWM_FUZZ", "207")) // len(FORMATS))


def damage(path, how, rng):
    data = bytearray(path.read_bytes())
    if how == "removed":
        path.unlink()
        return
    if how == "cut":
        data = data[: int(rng.integers(1, len(data)))]
    elif how == "emptied":
        data = bytearray()
    elif how == "replaced":
        data = bytearray(b"<html>503 Service Unavailable</html>")
    else:
        begin = 0 if how == "header" else int(rng.integers(len(data)))
        span = min(int(rng.integers(16, 4096)), len(data) - begin)
        data[begin : begin + span] = bytes(span)
    path.write_bytes(data)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    root = tmp_path_factory.mktemp("pristine")
    return root, build_all(root)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rounds", [6, pytest.param(ROUNDS, marks=pytest.mark.slow)])
def test_damaged_files_are_skipped_and_counted_and_give_nothing_wrong(
    pristine, name, rounds, tmp_path, caplog
):
    root, specs = pristine
    rng = np.random.default_rng([rounds, FORMATS.index(name)])
    num_bad = num_refused = num_wrong = num_named = 0
    caplog.set_level("WARNING")
    for round_number in range(rounds):
        copy = tmp_path / str(round_number)
        folder, spec = copy_set(root, specs[name], copy)
        files = sorted(p for p in folder.rglob("*") if p.suffix in DATA_SUFFIXES)
        files = [p for p in files if "meta" not in p.parts]
        how = DAMAGES[round_number % len(DAMAGES)]
        if UNDETECTABLE.get(name) == how:
            continue
        damage(files[int(rng.integers(len(files)))], how, rng)
        try:
            source = open_source(spec)
        except (OSError, ValueError) as error:  # nothing is left, and it says so
            num_refused += bool(str(error))
            continue
        wrong, bad = epoch(name, source)
        num_wrong, num_bad = num_wrong + wrong, num_bad + bad
        assert bad == 0 or caplog.messages
        num_named += len(caplog.messages)  # a damaged shard is named when it is indexed
        caplog.clear()
        shutil.rmtree(copy)
    assert num_wrong == 0
    assert num_bad + num_refused + num_named > 0


def epoch(name, source):
    """Wrong and skipped windows of one epoch, in which every window is used or skipped."""
    has_actions = source.features.action_size > 0
    window = WindowSpec(
        chunk_size=2,
        image_size=64,
        with_frames=True,
        with_actions=has_actions,
        views=(source.features.cameras[0],),
    )
    try:
        loader = make_loader(
            source, window, 1, max_bad_share=1.0, cache_bytes=0, windows_per_visit=100
        )
        batches = iter(loader)
        wrong = 0
        while True:
            batch = next(batches)
            if loader.epochs()[source.name] >= 1.0:
                break
            _, clip, start = batch["index"][0].tolist()
            last = source.length(clip) - 1
            for k, frame in enumerate(batch["frames"][0]):
                expected = expected_stamp(name, source, clip, min(start + k, last))
                wrong += read_stamp(frame) != expected
            if has_actions:
                step = start + 1 if name == "libero" else start
                wrong += batch["actions"][0, 0, 1] != step
    except RuntimeError as error:  # every clip of the set is bad
        if " are bad" not in str(error):
            raise
        return 0, 1
    return wrong, loader.num_bad()[source.name]
