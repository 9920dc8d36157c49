# SPDX-License-Identifier: Apache-2.0
"""What a pretraining run shows of itself: the strip, and the health table."""

import json
from dataclasses import replace
from pathlib import Path

from ..data import WindowDataset, WindowSpec, open_source
from ..models import LawmForPretraining, LAWMProcessor
from .clips import Clips, load_clips
from .figures import imagination_strip
from .health import LatentHealth, latent_health

_HELD_OUT, _FIT = 300, 500  # clips; as many again are needed to fit the probes of 70 numbers


class LatentReport:
    """Looks at a model during pretraining, always with the same clips.

    Args:
        source: Spec of clips that are not trained on. `"auto"` records held-out tabletop episodes
            when the first training source is the tabletop; otherwise it takes the training clips
            (no others are known), and says so.
        sources: The training sources.
        window: The training window.
        processor: The run's processor.
        folder: Where pictures and tables go.
    """

    def __init__(
        self,
        source: str,
        sources: list[str],
        window: WindowSpec,
        processor: LAWMProcessor,
        folder: str | Path,
    ):
        self.folder = Path(folder)
        self.is_held_out = source != "auto" or sources[0].startswith("tabletop")
        if source == "auto":
            source = _held_out_tabletop(sources[0]) if self.is_held_out else sources[0]
        opened = open_source(source)
        window = replace(window, max_start=0, with_actions=bool(opened.features.action_size))
        held_out, fit = opened, None
        if len(opened.clips) >= 2 * _HELD_OUT:
            held_out = opened.select(episodes=f":{_HELD_OUT}")
            fit = opened.select(episodes=f"{_HELD_OUT}:{_HELD_OUT + _FIT}")
        self.held_out = load_clips(WindowDataset(held_out, window), processor, _HELD_OUT)
        self.fit: Clips | None = None
        if fit is not None:
            self.fit = load_clips(WindowDataset(fit, window), processor, _FIT)

    def strip(self, model: LawmForPretraining, name: str) -> Path:
        """Write `<name>.png`: real, reconstructed and imagined frames of some clips."""
        path = self.folder / f"{name}.png"
        imagination_strip(model.policy, model.world_model, self.held_out, path)
        return path

    def health(self, model: LawmForPretraining) -> LatentHealth:
        """Measure, and write `health.json`."""
        health = latent_health(model.policy, model.world_model, self.held_out, self.fit)
        record = {"is_held_out": self.is_held_out, **health.to_dict()}
        (self.folder / "health.json").write_text(json.dumps(record, indent=2))
        return health


def _held_out_tabletop(source: str) -> str:
    """Episodes of the same suite from seeds that nothing else uses."""
    suite = source.removeprefix("tabletop").removeprefix(":").split(",")[0] or "reach"
    return f"tabletop:{suite},episodes={_HELD_OUT + _FIT},seed=900000,views=front"
