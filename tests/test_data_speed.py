# SPDX-License-Identifier: Apache-2.0
"""The loader is ahead of LeRobot's on the same files, as a ratio of CPU time in one process."""

import statistics
import time

import numpy as np
import pytest
from data_fixtures import encode, stamped

from lawm_hf.data import WindowSpec, make_loader, open_source
from lawm_hf.data.convert import Conversion, write_lerobot

WINDOW = WindowSpec(chunk_size=9, image_size=128, with_frames=True)  # 10 frames


@pytest.mark.slow
def test_mixed_windows_come_at_least_twice_as_fast_as_by_lerobot_dataset(tmp_path):
    lerobot = pytest.importorskip("lerobot.datasets")
    roots = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(24):
            encode(stamped(i, 48, 128, 128), str(tmp_path / name / f"push it {i}.mp4"), 12)
        source = open_source(f"folder:{tmp_path / name}")
        roots.append(write_lerobot(source, tmp_path / f"{name}_set", Conversion(image_size=128)))

    specs = [f"lerobot:{root}" for root in roots]
    batches = iter(make_loader(specs, WINDOW, 32, weights=[3, 1], cache_bytes=0))
    sets = []
    for i, root in enumerate(roots):
        (camera,) = lerobot.LeRobotDatasetMetadata(f"me/{i}", root=root).camera_keys
        options = {"return_uint8": True, "video_backend": "pyav"}
        deltas = {camera: [k / 12 for k in range(10)]}
        sets.append(
            lerobot.LeRobotDataset(f"me/{i}", root=root, delta_timestamps=deltas, **options)
        )
    rng = np.random.default_rng(0)

    def ours() -> float:
        """CPU seconds of a window."""
        start = time.process_time()
        for _ in range(16):
            assert next(batches)["frames"].shape == (32, 10, 3, 128, 128)
        return (time.process_time() - start) / (16 * 32)

    def theirs() -> float:
        start = time.process_time()
        for i in rng.choice(2, 32, p=(0.75, 0.25)):
            assert sets[i][int(rng.integers(24 * 48))][camera].shape == (10, 3, 128, 128)
        return (time.process_time() - start) / 32

    ours(), theirs()
    rounds = [(theirs(), ours(), ours(), theirs()) for _ in range(5)]
    ratios = [(a + d) / (b + c) for a, b, c, d in rounds]
    assert statistics.median(ratios) > 2, ratios
