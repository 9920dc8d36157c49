# SPDX-License-Identifier: Apache-2.0
"""The tabletop as a game: a policy plays, or a person with mouse and keys."""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..data.spec import parse_spec
from ..envs.tabletop import SUITES, VIEWS, Tabletop
from ..envs.tabletop.render import RayRenderer
from ..envs.tabletop.simulation import HOVER_HEIGHT, STEP_SIZE
from ..evaluation.environments import ask_environment
from ..evaluation.rollout import ChunkAggregator, predict
from ..models import LAWMPolicy, LAWMProcessor
from .camera import in_picture, on_table
from .run import Run
from .studio import MAX_WORDS

KEYS = {  # what a key or its button does, in units of action: x (towards the camera), y, z
    "left": (0, -1, 0),
    "right": (0, 1, 0),
    "away": (-1, 0, 0),
    "near": (1, 0, 0),
    "up": (0, 0, 1),
    "down": (0, 0, -1),
}
_SIDE = 448  # pixels of the picture
_CLICK_STEPS = 14  # the longest way across the table
_OPEN = -1.0


class Driver:
    """A finetuned policy, if it fits the tabletop.

    Args:
        run: A run of finetuning.

    Raises:
        ValueError: If the policy is of another robot.
    """

    def __init__(self, run: Run):
        source = str(run.arguments().get("source") or "tabletop:reach")
        if source.startswith("libero"):  # its numbers may be as many
            raise ValueError(
                "It was finetuned on LIBERO, and here is the tabletop only. See it by "
                "`lawm-hf evaluate --env libero --videos 4`."
            )
        suite = parse_spec(source)[1] if source.startswith("tabletop") else ""
        self.suite = SUITES.get(suite, SUITES["reach"])
        self.policy = LAWMPolicy.from_pretrained(run.folder).eval()
        self.processor = LAWMProcessor.from_pretrained(run.folder)
        asked = ask_environment("tabletop", self.policy.config, {"suite": self.suite.name}, [])
        self.views = asked.views

    def chunk(self, world: Tabletop, task: str) -> np.ndarray:
        """The actions it would take from here on, `(N, 7)`."""
        pixels = {view: world.render(view) for view in VIEWS}
        seen = {"pixels": pixels, "agent_pos": world.state()}
        return predict(self.policy, self.processor, [seen], [task], self.views)[0]


class Game:
    """One visitor's tabletop.

    Args:
        driver: The policy.
        seed: Of the scene.
    """

    def __init__(self, driver: Driver, seed: int = 0):
        self.driver = driver
        self.world = Tabletop(driver.suite.name, driver.policy.config.image_size)
        self.camera = RayRenderer(self.world.model, "front", _SIDE, "robot")
        self.start(seed)

    def start(self, seed: int, task: int | None = None) -> None:
        """Begin the episode of a seed, with its own instruction or another."""
        self.world.reset(seed, task)
        self._forget()
        self.camera.start_episode()
        self.seed, self.words = seed, self.world.instruction
        self.steps, self.solved_at = 0, None
        self._turn = object()  # whose move it is: what was moving before stops
        self.path: np.ndarray | None = None  # (K, 3): what the policy means to do
        self.target: np.ndarray | None = None  # (3,): where a person has clicked

    def _forget(self) -> None:
        """What the policy meant to do is void: the scene, the words or the hand are others."""
        config = self.driver.policy.config
        self._aggregator = ChunkAggregator(config.aggregation, config.n_action_steps)

    def halt(self) -> None:
        """Whatever is moving stops."""
        self._turn = object()

    def tell(self, words: str) -> None:
        """Give another instruction, here and now; one that the tabletop knows is judged by, too.

        Raises:
            ValueError: If it is empty or too long.
        """
        words = words.strip()
        if not words or len(words) > MAX_WORDS:
            raise ValueError(f"An instruction has 1 to {MAX_WORDS} characters, got {len(words)}.")
        self.words = words
        self._forget()
        tasks = self.driver.suite.tasks
        if words in tasks:
            self.start(self.seed, tasks.index(words))

    def policy_step(self) -> None:
        """One action of the policy."""
        self._turn = object()
        self._policy_step()

    def _policy_step(self) -> None:
        torch.manual_seed(self.steps)  # of a policy that draws
        self.target = None
        if self._aggregator.needs_chunk:
            chunk = self.driver.chunk(self.world, self.words)
            self._aggregator.add(chunk[None])
            self.path = self.world.hand + np.cumsum(chunk[:, :3] * STEP_SIZE, 0)
        self._step(self._aggregator.next_action()[0])

    def policy_plays(self) -> Iterator[None]:
        """The policy's actions until the task is solved or its time is up, a pause after each."""
        self._turn = turn = object()
        for _ in range(self.driver.suite.max_steps):
            if self.solved_at is not None or self._turn is not turn:
                return
            self._policy_step()
            yield

    def key(self, name: str) -> None:
        """One action of a person's key."""
        self._turn = object()
        self._forget()
        self.path = self.target = None
        self._step(np.array([*KEYS[name], 0, 0, 0, _OPEN]))

    def click(self, x: float, y: float) -> Iterator[None]:
        """Move over the place in the picture that was clicked, a pause after each action.

        Args:
            x: From the left edge, in [0, 1].
            y: From the upper edge.
        """
        place = on_table(self.world, x, y)
        if place is None:
            return
        self.path, self.target = None, np.array([*place, 0.0])
        self._forget()
        goal = np.array([*place, HOVER_HEIGHT])
        self._turn = turn = object()
        for _ in range(_CLICK_STEPS):
            way = goal - self.world.hand
            if np.abs(way).max() < 0.006:
                return
            self._step(np.array([*np.clip(way / STEP_SIZE, -1, 1), 0, 0, 0, _OPEN]))
            yield
            if self.solved_at is not None or self._turn is not turn:
                return

    def picture(self) -> np.ndarray:
        """The front view with plan and target drawn in, uint8 `(448, 448, 3)`."""
        image = Image.fromarray(self.camera.render(self.world.data))
        draw = ImageDraw.Draw(image, "RGBA")
        if self.path is not None:
            dots = in_picture(self.world, self.path) * _SIDE
            for i, (x, y) in enumerate(dots.tolist()):
                size, strength = 5 - 0.3 * i, 255 - 18 * i
                colour = (255, 255, 255, strength)
                draw.ellipse((x - size, y - size, x + size, y + size), fill=colour)
        if self.target is not None:
            x, y = (in_picture(self.world, self.target[None])[0] * _SIDE).tolist()
            for size in (11, 12):
                draw.ellipse((x - size, y - size, x + size, y + size), outline="white")
            draw.line((x - 6, y, x + 6, y), fill="white")
            draw.line((x, y - 6, x, y + 6), fill="white")
        return np.asarray(image.convert("RGB"))

    @property
    def status(self) -> str:
        """How it stands, in one line."""
        told = f"“{self.words}”, scene {self.seed}: "
        if self.solved_at is not None:
            return f"{told}solved in {self.solved_at} steps."
        if self.words != self.world.instruction:
            return f"{told}step {self.steps}; no judge knows these words."
        return f"{told}step {self.steps}, not there yet."

    def _step(self, action: np.ndarray) -> None:
        is_solved = self.world.step(action)
        self.steps += 1
        if is_solved and self.solved_at is None and self.words == self.world.instruction:
            self.solved_at = self.steps
