# SPDX-License-Identifier: Apache-2.0
"""The latent actions of a policy as a column of the video that it looks at.

Each frame gets the whole chunk that the policy says there, `(N, A)`: only that was trained to mean
something. Each number lies in the scale of its own step, the world model unrolls them together, and
the second latent of a frame is not the first one of the next, which was said after seeing it.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils.hub import cached_file, extract_commit_hash

from ..data import WindowSpec, collate
from ..data.formats.lerobot_info import CHUNK_NAMES
from ..data.reader import WindowReader
from ..data.source import Resize, Source, pick_camera
from ..data.spec import parse_spec
from ..models import LAWMPolicy, LAWMProcessor
from ..models.sharing_lawm import not_found
from ..writing.lerobot import LATENT_COLUMN
from ..writing.yaml_file import read_yaml


@dataclass(frozen=True)
class LatentLabels:
    """What a policy adds to the frames of a conversion (`lawm_hf.data.parts.Columns`).

    Args:
        folder: Of a pretraining run, or its repository on the Hub.
        commit: Of the repository; none of a folder.
        sha256: Of the policy's weights.
        shape: Of a chunk, `(N, A)`.
        image_size: Side of the policy's views, in pixels.
        num_views: Most views it can tell apart.
        resize: How frames became squares in pretraining.
        interval_s: Seconds from one latent of a chunk to the next; None: a frame of pretraining.
        views: Cameras of pretraining, the main one first, if its specs name them.
        batch_size: Frames that the policy sees at a time.
        device: Where it runs.
    """

    folder: str = field(repr=False)  # it may move: what follows says which policy it is
    commit: str | None = field(repr=False)
    sha256: str
    shape: tuple[int, int]
    image_size: int
    num_views: int = 1
    resize: Resize = "squash"
    interval_s: float | None = None
    views: tuple[str, ...] | None = None
    batch_size: int = field(default=64, repr=False)
    device: str = field(default="cpu", repr=False)

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """See `Columns`."""
        return {LATENT_COLUMN: {"dtype": "float32", "shape": [*self.shape], "names": CHUNK_NAMES}}

    def cameras(self, present: Sequence[str]) -> tuple[str, ...]:
        """Of a source's cameras those that the policy looks at: as many as in pretraining.

        Raises:
            ValueError: If there are fewer, or nobody knows which of too many.
        """
        with suppress(ValueError):  # under other names
            if self.views is not None:
                return tuple(pick_camera(view, present) for view in self.views)
        count = len(self.views or present)
        if len(present) < count or count > self.num_views:
            wanted = f"those of pretraining, {' and '.join(self.views)}" if self.views else ""
            raise ValueError(
                f"The policy must see {wanted or f'at most {self.num_views} views'}, got "
                f"{', '.join(present)}. Choose cameras by `views=a+b` in the spec of the source."
            )
        return tuple(present[:count])

    @torch.no_grad()
    def try_out(self, task: str) -> None:
        """Look at a black picture: a policy that fails must not pass for clips that are damaged."""
        policy, processor = load_policy(self.folder, self.commit, self.device)
        picture = np.zeros((1, 1, 3, self.image_size, self.image_size), np.uint8)
        batch = processor(images=picture, task=[task])
        policy(**{key: value.to(policy.device) for key, value in batch.items()})

    @torch.no_grad()
    def __call__(self, source: Source, clip: int, frames: np.ndarray) -> dict[str, np.ndarray]:
        """See `Columns`."""
        policy, processor = load_policy(self.folder, self.commit, self.device)
        window = WindowSpec(
            chunk_size=self.shape[0],
            image_size=self.image_size,
            resize=self.resize,
            views=self.cameras(source.features.cameras),
        )
        # Latent pretraining shows no state; nor is one shown here.
        reader = WindowReader(source, window, with_state=False)
        starts, places = np.unique(frames, return_inverse=True)
        chunks = []
        for first in range(0, len(starts), self.batch_size):
            some = starts[first : first + self.batch_size].tolist()
            decoded = reader.decode(clip, some)
            raw: dict[str, Any] = collate([reader.sample(clip, s, decoded) for s in some])
            del raw["index"]
            batch = {k: v.to(policy.device) for k, v in processor(**raw).items()}
            with torch.random.fork_rng(devices=[]):  # of a policy whose latents begin as noise
                torch.manual_seed(clip)
                chunks.append(policy(**batch).actions.float().cpu().numpy())
        return {LATENT_COLUMN: np.concatenate(chunks)[places]}


def open_labels(
    folder: str, revision: str | None = None, batch_size: int = 64, device: str = "cpu"
) -> LatentLabels:
    """A policy to label with.

    Args:
        folder: Of the run (or of `policy/` in it), or its repository on the Hub.
        revision: Of the repository.
        batch_size: See `LatentLabels`.
        device: See `LatentLabels`.

    Raises:
        ValueError: If its actions are no latents.
        OSError: If there is no pretrained policy.
    """
    if Path(folder, "config.json").is_file() and Path(folder).name == "policy":
        folder = str(Path(folder).parent)
    folder = str(Path(folder).absolute()) if Path(folder).is_dir() else folder
    try:
        config = cached_file(folder, "policy/config.json", revision=revision)
    except OSError as error:
        raise not_found(folder, error) from error
    commit = extract_commit_hash(str(config), None)
    policy, processor = load_policy(folder, commit, device)
    found = cached_file(
        folder, "args.yaml", revision=commit, _raise_exceptions_for_missing_entries=False
    )
    args = read_yaml(Path(found)) if found else {}
    if args.get("objective") == "supervised" or processor.action_stats is not None:
        raise ValueError(
            f"`label` needs a policy of latent pretraining, but {folder!r} was trained on actions "
            "that its data hold. Give a run of `pretrain` with another `objective`."
        )
    sizes = policy.config
    digest = hashlib.sha256()
    for path in sorted(Path(str(config)).parent.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return LatentLabels(
        folder=folder,
        commit=commit,
        sha256=digest.hexdigest(),
        shape=(sizes.chunk_size, sizes.action_size),
        image_size=sizes.image_size,
        num_views=args.get("policy_views") or sizes.num_views,
        resize=args.get("resize", "squash"),
        interval_s=args.get("frame_interval_s") or None,
        views=_views(args),
        batch_size=batch_size,
        device=device,
    )


@lru_cache(maxsize=1)
def load_policy(folder: str, commit: str | None, device: str) -> tuple[LAWMPolicy, LAWMProcessor]:
    """The policy of a run, in evaluation mode, and its processor; once in each process."""
    hub = {"revision": commit} if commit else {}
    policy = LAWMPolicy.from_pretrained(folder, subfolder="policy", **hub)
    processor = LAWMProcessor.from_pretrained(folder, subfolder="processor", **hub)
    return policy.to(device).eval(), processor


def _views(args: dict[str, Any]) -> tuple[str, ...] | None:
    """Cameras by the specs of pretraining, which all name as many."""
    with suppress(ValueError, IndexError, KeyError):
        views = parse_spec(args["sources"][0])[2].get("views")
        return tuple(views.split("+"))[: args.get("policy_views") or None] if views else None
    return None
