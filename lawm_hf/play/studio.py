# SPDX-License-Identifier: Apache-2.0
"""Imagination on demand: a pair, some clips, their latents, and the directions these vary along."""

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..analysis.retrieval import neighbours
from ..analysis.traversal import Directions, principal_directions
from ..data import WindowDataset, WindowSpec, open_source
from ..models import LAWMForPretraining, LAWMProcessor
from .run import NUM_CLIPS, Run, default_source

MAX_WORDS = 300  # characters of an instruction
_DIRECTIONS = 4


@dataclass(frozen=True)
class Scene:
    """A clip on the page.

    Attributes:
        frames: `x_t .. x_{t+N}`, `(N+1, 3, S, S)` uint8, of the policy's size.
        task: The instruction.
        name: What the page calls it.
    """

    frames: np.ndarray
    task: str
    name: str


class Studio:
    """What the first tab computes with. Calls may come from several threads.

    Args:
        run: A run of pretraining.
        source: Spec of the clips; by default what the run was trained on, of the tabletop clips
            that it was not.
        num_clips: How many to look at.

    Raises:
        ValueError: If the run names no data that can be opened.
    """

    def __init__(self, run: Run, source: str = "", num_clips: int = NUM_CLIPS):
        self.model = LAWMForPretraining.from_pretrained(run.folder)
        sizes = self.model.world_model.config
        views, state = sizes.num_views, sizes.state_size
        if views > 1 or state:
            raise ValueError(
                "`lawm-hf play` imagines from one picture: a world model of one view and no robot "
                f"state, got one of {views} views and a `state_size` of {state}. Look at this run "
                "with `lawm-hf analyze`."
            )
        self.processor = LAWMProcessor.from_pretrained(run.folder, subfolder="processor")
        self.window = _window(self.model, run.arguments())
        self._lock = threading.Lock()
        data = WindowDataset(open_source(source or default_source(run, num_clips)), self.window)
        if not len(data):
            raise ValueError(
                f"Clips to play with need two frames at least, got none such in {data.source.name}."
                " Name others: --source folder:VIDEOS."
            )
        self.fps = data.features.fps
        chosen = np.linspace(0, len(data) - 1, min(num_clips, len(data))).round().astype(int)
        samples = [data[int(i)] for i in chosen]
        self.scenes = [
            Scene(s["frames"].numpy(), s["task"], f"clip {i + 1}") for i, s in enumerate(samples)
        ]
        self.latents = np.stack([self.latents_of(s, s.task) for s in self.scenes])  # (M, N, A)
        self.directions: Directions = principal_directions(self.latents, _DIRECTIONS)

    @property
    def tasks(self) -> list[str]:
        """The instructions of the clips, each once."""
        return sorted({scene.task for scene in self.scenes})

    @property
    def interval(self) -> float:
        """Seconds between two frames of a window."""
        return self.window.frame_interval_s or 1 / self.fps

    @torch.no_grad()
    def latents_of(self, scene: Scene, task: str) -> np.ndarray:
        """The policy's latent actions from the scene's first frame under an instruction `(N, A)`.

        Raises:
            ValueError: If the instruction is empty or too long.
        """
        if not task.strip() or len(task) > MAX_WORDS:
            raise ValueError(
                f"An instruction has 1 to {MAX_WORDS} characters, got {len(task.strip())}."
            )
        first = torch.from_numpy(scene.frames[None, :1])  # (B, V, C, H, W): one view
        with self._lock:
            actions = self.model.policy(**self.processor(images=first, task=[task])).actions
        return actions[0].float().numpy()

    @torch.no_grad()
    def imagine(self, scene: Scene, latents: np.ndarray) -> np.ndarray:
        """`x_t` and the frames imagined from it under latents, `(N+1, 3, F, F)` uint8."""
        first = torch.from_numpy(scene.frames[None, :1])
        with self._lock:
            batch = self.processor(images=first, task=[scene.task], frames=first)
            start: Tensor = batch["frames"][:, 0]
            actions = torch.from_numpy(latents[None]).float()
            drawn = self.model.world_model.predict_frames(start, actions)[0]
        pictures = (drawn.float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        return np.concatenate([start.numpy(), pictures])

    def places(self, latents: np.ndarray) -> list[float]:
        """Where latents `(N, A)` lie along each direction, in standard deviations of the data."""
        along = self.directions.vectors @ (latents.reshape(-1) - self.directions.mean)
        return (along / np.maximum(self.directions.deviations, 1e-9)).tolist()

    def moved(self, latents: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Latents `(N, A)` moved along the directions.

        Args:
            latents: Where from.
            change: How far along each, in standard deviations of the data.
        """
        flat = latents.reshape(-1) + (change * self.directions.deviations) @ self.directions.vectors
        # Beyond ±1 no policy can go, and no world model has been.
        return flat.clip(-1, 1).reshape(latents.shape).astype(np.float32)

    def nearest(self, latents: np.ndarray, count: int = 4) -> list[tuple[Scene, float]]:
        """The clips whose latents are most alike, with the cosines, the nearest first."""
        everything = np.concatenate([self.latents, latents[None]])
        # The clip itself is no news.
        same = [np.array_equal(z, latents) for z in self.latents]
        episodes = np.where([*same, True], -1, np.arange(len(everything)))
        found, cosines = neighbours(everything, episodes, count)
        return [
            (self.scenes[i], float(cosine))
            for i, cosine in zip(found[-1].tolist(), cosines[-1], strict=True)
            if np.isfinite(cosine)  # of a few clips there are fewer
        ]


def _window(model: Any, arguments: dict[str, Any]) -> WindowSpec:
    """As in the run's training; one window of each clip, from its beginning."""
    config = model.policy.config
    return WindowSpec(
        chunk_size=config.chunk_size,
        image_size=config.image_size,
        frame_interval_s=arguments.get("frame_interval_s") or None,
        resize=arguments.get("resize", "squash"),
        with_frames=True,
        with_state=False,
        max_start=0,
    )
