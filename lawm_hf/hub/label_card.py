# SPDX-License-Identifier: Apache-2.0
"""The card of a set that a policy has labelled: what the column is, and who has made it of what."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from huggingface_hub import DatasetCardData

from ..writing.atomic import read_json, write_text_atomic
from ..writing.lerobot import LATENT_COLUMN
from .card import licence_list
from .data_set import source_of
from .licences import (
    ORIGIN_FILE,
    UNKNOWN,
    Licence,
    hub_id,
    label_sources,
    licence,
    licence_fields,
    pretraining_sources,
    shareable,
)
from .text import code, plain

_PRIVATE = "\n**Keep copies private** as long as one of these licences does not allow more.\n"
_CARD = """---
{data}
---

# {title}

Video with the **latent actions** of a policy for every frame, as a
[LeRobot](https://github.com/huggingface/lerobot) v3.0 set: {frames:,} frames of {episodes:,} clips.

## The column `{column}`

Row `t` holds what the policy says on seeing frame `t` and the instruction: a chunk of {n} latent
actions of {a} numbers in [-1, 1]. Latent `k` leads from `k` to `k + 1` steps after frame `t`; a
step is {step}. No robot recorded them: they are a model's, in units of its own, and
later frames were not looked at. Mean and standard deviation over frames and steps
(`meta/stats.json` has those of each step, and quantiles):

| dimension | mean | std |
|--:|--:|--:|
{rows}

## Made by

- policy: {model}{commit}, sha256 of its weights `{sha256}`
- pretrained on: {seen}
- source: {source}{left_out}

## Licences

Of the frames, and of what the policy was trained on:

{licences}
{private}
## Use

```python
from lerobot.datasets import LeRobotDataset

LeRobotDataset({name!r})[0]["{column}"]  # ({n}, {a})
```

With lawm_hf a new policy learns them, and is then finetuned on actions:

```bash
lawm-hf pretrain --objective supervised --sources lerobot:{name},action={column}
```
"""


@dataclass(frozen=True)
class Teacher:
    """The policy that labelled.

    Args:
        model: Its address, without folders of this machine.
        commit: On the Hub, if it lies there.
        sha256: Of its weights.
        sources: What it was pretrained on; None if that is not known.
    """

    model: str
    commit: str | None
    sha256: str
    sources: list[str] | None

    @classmethod
    def of(cls, folder: str, commit: str | None, sha256: str) -> "Teacher":
        """The policy of a run."""
        place = f"{folder}@{commit}" if commit else folder
        return cls(shareable(folder), commit, sha256, pretraining_sources(place))


def describe_labels(
    folder: Path,
    spec: str,
    teacher: Teacher,
    *,
    interval_s: float | None = None,
    num_left_out: int = 0,
    repository: str = "",
) -> None:
    """Write the card of a labelled set, and where it comes from, for whoever trains on it.

    Args:
        folder: Of the set.
        spec: Of the source.
        teacher: Who labelled it.
        interval_s: Seconds from one latent to the next; None: a frame of pretraining.
        num_left_out: Clips that could not be read.
        repository: Where it will live.
    """
    info = read_json(folder / "meta/info.json", dict)
    stats = read_json(folder / "meta/stats.json", dict)[LATENT_COLUMN]
    source, (steps, size) = source_of(spec), info["features"][LATENT_COLUMN]["shape"]
    seen = [*(teacher.sources or []), *label_sources(spec, remote=True)]
    licences = {source: licence(source)} | {s: licence(s) for s in seen}
    if teacher.sources is None:
        licences[f"what {teacher.model} was trained on"] = UNKNOWN
    text = _CARD.format(
        data=_metadata(source, licences).to_yaml(),
        title=f"{plain(source.partition(':')[0])}, labelled by lawm_hf",
        column=LATENT_COLUMN,
        frames=info["total_frames"],
        episodes=info["total_episodes"],
        n=steps,
        a=size,
        step="a frame of its pretraining" if interval_s is None else f"{interval_s:g} s",
        rows=_moments(np.array(stats["mean"]), np.array(stats["std"])),
        model=code(teacher.model),
        commit=f", commit `{teacher.commit}`" if teacher.commit else "",
        sha256=teacher.sha256,
        seen=", ".join(map(code, seen)) or "not known",
        source=code(shareable(spec)),
        left_out=f"; {num_left_out} clips could not be read and are left out" * bool(num_left_out),
        licences=licence_list(licences),
        private="" if all(found.allows_frames for found in licences.values()) else _PRIVATE,
        name=repository or "USER/NAME",
    )
    write_text_atomic(folder / "README.md", text)
    note = {"source": source, "labels": asdict(teacher) | {"sources": seen}}
    write_text_atomic(folder / ORIGIN_FILE, json.dumps(note) + "\n")


def _metadata(source: str, licences: dict[str, Licence]) -> DatasetCardData:
    """What the Hub filters by."""
    return DatasetCardData(
        task_categories=["robotics"],
        tags=["LeRobot", "lawm", "latent-actions"],
        source_datasets=[found] if (found := hub_id(source)) else None,
        configs=[{"config_name": "default", "data_files": "data/*/*.parquet"}],
        **licence_fields(licences.values()),
    )


def _moments(mean: np.ndarray, std: np.ndarray) -> str:
    """Rows of a table: `(N, A)` statistics of each step become those of all steps."""
    whole = mean.mean(0)
    spread = np.sqrt((std**2 + mean**2).mean(0) - whole**2)
    rows = enumerate(zip(whole, spread, strict=True))
    return "\n".join(f"| {a} | {m:.3f} | {s:.3f} |" for a, (m, s) in rows)
