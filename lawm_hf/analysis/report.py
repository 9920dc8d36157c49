# SPDX-License-Identifier: Apache-2.0
"""What a pretraining run shows of itself: the clips looked at, the strip, the health table."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from ..data import Source, WindowDataset, WindowSpec, open_source
from ..data.spec import parse_spec
from ..models import LawmForPretraining, LAWMProcessor
from ..writing.atomic import write_text_atomic
from ..writing.text import get_logger
from .clips import Clips, load_clips
from .figures import imagination_strip
from .health import LatentHealth, latent_health

logger = get_logger(__name__)

HELD_OUT_SEED = 900_000  # of the tabletop: clips from here on are never trained on
_HELD_OUT, _FIT = 300, 500  # clips; as many again are needed to fit the probes of 70 numbers


def training_sources(sources: Sequence[str], source: str, share: float) -> list[Source]:
    """Open the training sources, the first without the clips that the run will be judged on.

    Args:
        sources: Their specs.
        source: What the run is judged on, see `report_clips`.
        share: Share of the clips that is held out of the first source, if no others are known.
    """
    opened = [open_source(spec) for spec in sources]
    if source == "auto" and not sources[0].startswith("tabletop"):
        opened[0] = opened[0].hold_out(share)[0]
    return opened


def report_clips(
    source: str,
    sources: Sequence[str],
    window: WindowSpec,
    processor: LAWMProcessor,
    later: Sequence[int] = (),
    share: float = 0.0,
) -> tuple[Clips, Clips | None, bool]:
    """The clips that a run is judged on: one from the beginning of each episode.

    Args:
        source: Spec of clips that are not trained on. `"auto"` records held-out tabletop episodes
            when the first training source is the tabletop; otherwise it takes those that
            `training_sources` has held out of the first one, or training clips if that had to
            spare none.
        sources: The training sources.
        window: The training window.
        processor: The run's processor.
        later: Steps of the clips to judge on at which the policy looks again; see `load_clips`.
        share: What `training_sources` was given.

    Returns:
        The clips to judge on, those to fit probes on (other episodes; of too small a source none),
        and whether the clips were held out from training.
    """
    held_out = fit = None
    if source == "auto" and sources[0].startswith("tabletop"):
        opened, is_held_out = open_source(_held_out_tabletop(sources[0])), True
    elif source == "auto":
        fit, held_out = open_source(sources[0]).hold_out(share)
        opened, is_held_out = held_out or fit, held_out is not None
    else:
        opened = open_source(source)
        is_held_out = not _shares_clips(opened, source, sources)
    # Actions are stored at the source's own rate, so resampled frames do without them.
    with_actions = bool(opened.features.action_size) and window.frame_interval_s is None
    window = replace(window, max_start=0, with_actions=with_actions)
    count = min(_HELD_OUT, len(opened.clips) * _HELD_OUT // (_HELD_OUT + _FIT))
    if held_out is None:
        held_out, fit = opened, None
        if count >= 2:
            held_out = opened.select(episodes=f":{count}")
            fit = opened.select(episodes=f"{count}:{count + _FIT}")
    clips = load_clips(WindowDataset(held_out, window), processor, _HELD_OUT, later=later)
    if len(set(clips.episodes.tolist())) < 2:
        raise ValueError(
            f"The health report needs sound clips of two episodes at least, got {len(clips)} of "
            f"{held_out.name}. Give others by --eval_source, or pass --eval_source none."
        )
    if fit is None:
        return clips, None, is_held_out
    return clips, load_clips(WindowDataset(fit, window), processor, _FIT), is_held_out


def _shares_clips(opened: Source, source: str, sources: Sequence[str]) -> bool:
    """Whether any of the clips is trained on."""
    place = source.partition(",")[0]
    names = {opened.clip_name(int(clip)) for clip in opened.clips}
    return any(
        names & {other.clip_name(int(clip)) for clip in other.clips}
        for other in (open_source(spec) for spec in sources if spec.partition(",")[0] == place)
        if other.name == opened.name
    )


class LatentReport:
    """Looks at a model during pretraining, always with the same clips.

    Args:
        source: Spec of clips that are not trained on, or `"auto"`; see `report_clips`.
        sources: The training sources.
        window: The training window.
        processor: The run's processor.
        folder: Where pictures and tables go.
        share: See `training_sources`.
    """

    def __init__(
        self,
        source: str,
        sources: list[str],
        window: WindowSpec,
        processor: LAWMProcessor,
        folder: str | Path,
        share: float = 0.0,
    ):
        self.folder = Path(folder)
        self.held_out, self.fit, self.is_held_out = report_clips(
            source, sources, window, processor, share=share
        )

    @property
    def about(self) -> str:
        """What the run is judged on."""
        kind = "that are not trained on" if self.is_held_out else "of the training data"
        return f"{len(self.held_out)} clips {kind}"

    def strip(self, model: LawmForPretraining, name: str) -> Path:
        """Write `<name>.png`: real, reconstructed and imagined frames of some clips."""
        path = self.folder / f"{name}.png"
        imagination_strip(model.policy, model.world_model, self.held_out, path)
        return path

    def health(self, model: LawmForPretraining, step: int) -> LatentHealth:
        """Measure at the end, and write `health.json` and the last line of `health.jsonl`."""
        health = latent_health(model.policy, model.world_model, self.held_out, self.fit)
        health.is_held_out = self.is_held_out
        write_text_atomic(self.folder / "health.json", json.dumps(health.to_dict(), indent=2))
        self._add_line(health, step)
        return health

    def watch(self, model: LawmForPretraining, step: int, accelerator: Accelerator) -> list[str]:
        """Look in the middle of training: a picture, a line of `health.jsonl`, the trackers.

        Returns:
            The alarms, which are also told as warnings.
        """
        with torch.random.fork_rng():  # whatever a model draws, training goes on as without
            picture = self.strip(model, f"strip_{step:06d}")
            health = latent_health(model.policy, model.world_model, self.held_out, self.fit)
        alarms = self._add_line(health, step)
        track(accelerator, health.scalars(), picture, step)
        for alarm in alarms:
            logger.warning("Update %d: %s", step, alarm)
        return alarms

    def _add_line(self, health: LatentHealth, step: int) -> list[str]:
        """To `health.jsonl`; the alarms."""
        path, alarms = self.folder / "health.jsonl", health.alarms()
        lines = path.read_text().splitlines() if path.exists() else []
        lines = [line for line in lines if json.loads(line)["step"] < step]  # of this run
        lines.append(json.dumps({"step": step} | health.scalars() | {"alarms": alarms}))
        write_text_atomic(path, "".join(f"{line}\n" for line in lines))
        return alarms


def track(accelerator: Accelerator, numbers: dict[str, float], picture: Path, step: int) -> None:
    """Give the trackers the numbers of a health report and its picture, to each in its own way."""
    accelerator.log({f"health/{name}": value for name, value in numbers.items()}, step=step)
    pixels = np.asarray(Image.open(picture).convert("RGB"))  # (H, W, 3)
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images({"imagined": pixels[None]}, step=step, dataformats="NHWC")
        elif tracker.name == "wandb":
            tracker.log_images({"imagined": pixels[None]}, step=step)
        elif tracker.name == "trackio":
            import trackio

            tracker.log({"imagined": trackio.Image(pixels)}, step=step)


def _held_out_tabletop(source: str) -> str:
    """Episodes of the same suite and cameras from seeds that nothing else uses."""
    _, suite, options = parse_spec(source)
    views = options.get("views", "front+wrist")
    where = f"tabletop:{suite or 'reach'},episodes={_HELD_OUT + _FIT},seed={HELD_OUT_SEED}"
    return f"{where},views={views}"
