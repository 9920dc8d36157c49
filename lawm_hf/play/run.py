# SPDX-License-Identifier: Apache-2.0
"""Which run is played with: a folder, or a repository of the Hub, and what kind it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

import lawm_hf

from ..analysis.report import HELD_OUT_SEED
from ..data.spec import parse_spec
from ..plugins import import_recorded
from ..writing.yaml_file import read_yaml

NUM_CLIPS = 96  # to pick from, and to find directions in
# Models, card and reports. No code, no state to resume from.
WANTED = ["*.json", "*.jsonl", "*.safetensors", "README.md", "args.yaml", "strip*.png"]


@dataclass(frozen=True)
class Run:
    """A run on this machine.

    Attributes:
        name: As the user has named it.
        folder: Where it lies.
    """

    name: str
    folder: Path

    @property
    def is_pair(self) -> bool:
        """Whether it is of pretraining: a policy with its world model."""
        return (self.folder / "world_model" / "config.json").is_file()

    def arguments(self) -> dict[str, Any]:
        """Its `args.yaml`; empty without."""
        path = self.folder / "args.yaml"
        return read_yaml(path) if path.is_file() else {}


def open_run(name: str) -> Run:
    """Find a run, fetch it from the Hub if it is there, and import the packages it names.

    Args:
        name: A folder, or `user/name` on the Hub.

    Raises:
        ValueError: If there is none, or it holds no model.
    """
    folder = Path(name)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(name, allow_patterns=WANTED))
        except Exception as error:
            raise ValueError(
                "`lawm-hf play` takes the folder of a run or a repository of the Hub, got "
                f"{name!r}, which is neither ({type(error).__name__}). Without a name it shows the "
                "checkpoint that comes with the package."
            ) from error
    run = Run(name, folder)
    if not run.is_pair and not (folder / "config.json").is_file():
        raise ValueError(
            f"`lawm-hf play` takes what pretraining or finetuning has written, got {name!r}, which "
            "has no model. Wait for the run to end, or name its `output_dir`."
        )
    import_recorded(folder)
    return run


def open_runs(name: str = "", policy: str = "") -> tuple[Run, Run]:
    """The pair that imagines and the policy that drives; shipped ones for what is not named.

    Args:
        name: A run of either kind.
        policy: A run of finetuning, where `name` is one of pretraining.

    Raises:
        ValueError: If a run is missing or of the other kind.
    """
    named = open_run(name or lawm_hf.TABLETOP)
    if not named.is_pair:
        if policy:
            raise ValueError(
                f"`policy` is for a run of pretraining, but {name!r} is a policy itself. Leave it "
                "out."
            )
        return open_run(lawm_hf.TABLETOP), named
    driver = open_run(policy or lawm_hf.TABLETOP_POLICY)
    if driver.is_pair:
        raise ValueError(
            f"`policy` must be finetuned, got the pretraining run {policy!r}: latent actions move "
            "no robot. Finetune it first: lawm-hf finetune --pretrained."
        )
    return named, driver


def default_source(run: Run, num_clips: int = NUM_CLIPS) -> str:
    """Clips like those that a run was trained on; of the tabletop, ones that it was not.

    Raises:
        ValueError: If the run does not say.
    """
    sources = run.arguments().get("sources") or []
    if not sources:
        raise ValueError(
            f"Clips to play with come from the data of a run, and {run.name} names none in its "
            "args.yaml. Name some: --source folder:VIDEOS."
        )
    scheme, location, options = parse_spec(sources[0])
    if scheme != "tabletop":
        return sources[0]
    domain = options.get("domain", "robot")
    # Few enough to be recorded while one waits, and no clip of training is among them.
    return (
        f"tabletop:{location or 'reach'},episodes={num_clips},seed={HELD_OUT_SEED},"
        f"actions=false,views=front,domain={domain}"
    )
