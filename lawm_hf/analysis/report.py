# SPDX-License-Identifier: Apache-2.0
"""What a pretraining run shows of itself: the clips looked at, the strip, the health table."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..data import WindowDataset, WindowSpec, open_source
from ..models import LawmForPretraining, LAWMProcessor
from .clips import Clips, load_clips
from .figures import imagination_strip
from .health import LatentHealth, latent_health

_HELD_OUT, _FIT = 300, 500  # clips; as many again are needed to fit the probes of 70 numbers


def report_clips(
    source: str,
    sources: Sequence[str],
    window: WindowSpec,
    processor: LAWMProcessor,
    later: Sequence[int] = (),
) -> tuple[Clips, Clips | None, bool]:
    """The clips that a run is judged on: one from the beginning of each episode.

    Args:
        source: Spec of clips that are not trained on. `"auto"` records held-out tabletop episodes
            when the first training source is the tabletop; otherwise it takes the training clips
            (no others are known).
        sources: The training sources.
        window: The training window.
        processor: The run's processor.
        later: Steps of the clips to judge on at which the policy looks again; see `load_clips`.

    Returns:
        The clips to judge on, those to fit probes on (other episodes; of too small a source none),
        and whether the clips were held out from training.
    """
    is_held_out = source != "auto" or sources[0].startswith("tabletop")
    if source == "auto":
        source = _held_out_tabletop(sources[0]) if is_held_out else sources[0]
    opened = open_source(source)
    # Actions are stored at the source's own rate, so resampled frames do without them.
    with_actions = bool(opened.features.action_size) and window.frame_interval_s is None
    window = replace(window, max_start=0, with_actions=with_actions)
    held_out, fit = opened, None
    count = min(_HELD_OUT, len(opened.clips) * _HELD_OUT // (_HELD_OUT + _FIT))
    if count >= 2:
        held_out = opened.select(episodes=f":{count}")
        fit = opened.select(episodes=f"{count}:{count + _FIT}")
    clips = load_clips(WindowDataset(held_out, window), processor, _HELD_OUT, later=later)
    if fit is None:
        return clips, None, is_held_out
    return clips, load_clips(WindowDataset(fit, window), processor, _FIT), is_held_out


class LatentReport:
    """Looks at a model during pretraining, always with the same clips.

    Args:
        source: Spec of clips that are not trained on, or `"auto"`; see `report_clips`.
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
        self.held_out, self.fit, self.is_held_out = report_clips(source, sources, window, processor)

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
