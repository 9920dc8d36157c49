# SPDX-License-Identifier: Apache-2.0
"""What trackers are told of a health report; tests/test_recipes.py reads TensorBoard's file."""

import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from accelerate import Accelerator
from PIL import Image

from lawm_hf.analysis.report import track


@pytest.fixture
def picture(tmp_path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "strip.png")
    return tmp_path / "strip.png"


def tracked(name: str, picture: Path) -> mock.Mock:
    """A tracker of that name after a report."""
    tracker = mock.Mock()
    tracker.name = name
    accelerator = mock.Mock(trackers=[tracker])
    track(accelerator, {"swap_gap_share": 0.5}, picture, 7)
    accelerator.log.assert_called_once_with({"health/swap_gap_share": 0.5}, step=7)
    return tracker


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_strip_goes_to_a_tracker_with_channels_last(name, picture):
    (call,) = tracked(name, picture).log_images.call_args_list
    assert call.kwargs["step"] == 7
    assert np.array_equal(call.args[0]["imagined"][0], np.asarray(Image.open(picture)))


def test_trackio_is_given_its_own_kind_of_picture(picture, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(Image=lambda x: ("image", x)))
    (call,) = tracked("trackio", picture).log.call_args_list
    kind, pixels = call.args[0]["imagined"]
    assert (kind, call.kwargs["step"]) == ("image", 7)
    assert np.array_equal(pixels, np.asarray(Image.open(picture)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_real_tracker_keeps_the_strip_without_a_network(name, picture, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "kept"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "kept"))
    (tmp_path / "kept").mkdir()
    pytest.importorskip(name)  # reads where to keep things
    accelerator = Accelerator(cpu=True, log_with=[name], project_dir=tmp_path)
    accelerator.init_trackers("lawm_pretrain")
    track(accelerator, {"swap_gap_share": 0.5}, picture, 7)
    accelerator.end_training()
    (kept,) = (tmp_path / "kept").rglob("*.png")
    assert np.array_equal(
        np.asarray(Image.open(kept).convert("RGB")), np.asarray(Image.open(picture))
    )
