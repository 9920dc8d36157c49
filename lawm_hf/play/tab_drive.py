# SPDX-License-Identifier: Apache-2.0
"""Second tab: the tabletop, driven by the policy, the mouse or the keyboard."""

import time
from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np

from ..hub.text import escape
from .game import KEYS, Driver, Game

_PAUSE_S = 0.12
_SYMBOLS = {"left": "←", "right": "→", "away": "↑", "near": "↓", "up": "rise", "down": "sink"}
# Keys press the buttons, while the tab is shown and nobody is writing.
KEYBOARD = """
<script>
document.addEventListener("keydown", (event) => {
  const names = {ArrowLeft: "left", ArrowRight: "right", ArrowUp: "away", ArrowDown: "near",
                 w: "up", s: "down", " ": "policy"};
  const name = names[event.key];
  if (!name || /INPUT|TEXTAREA|SELECT/.test(event.target.tagName)) return;
  const button = document.getElementById("key-" + name);
  if (!button || button.offsetParent === null) return;
  event.preventDefault();
  button.click();
});
</script>
"""
_HELP = """
Say where to go, then let the **policy** play: the dots are the actions it means to take next. Or
play yourself: **click** on the table, or use the **arrow keys** (w, s: rise, sink; space: one step
of the policy). A scene is solved when """
_SOLVED = (
    "the hand hovers over the named cube for three steps.",
    "the named cube lies where the words say. Mouse and keys leave the gripper open.",
)


class DriveTab:
    """Builds the tab inside the Blocks that are open.

    Args:
        driver: The policy, or why it cannot drive.
        page: The Blocks, whose visitors get a game each.
    """

    def __init__(self, driver: Driver | str, page: gr.Blocks):
        if isinstance(driver, str):
            gr.Markdown(
                f"This policy does not drive the tabletop. {escape(driver)}", elem_id="no-driver"
            )
            return
        self.driver = driver
        self.state = gr.State(None, time_to_live=3600)
        with gr.Row():
            with gr.Column(scale=0, min_width=500):
                self.picture = gr.Image(
                    interactive=False,
                    show_label=False,
                    height=460,
                    format="jpeg",
                    buttons=[],
                    elem_id="table",
                )
                self.status = gr.Markdown("", elem_id="status")
            with gr.Column(scale=4, min_width=300):
                self._controls()
        self._wire(page)

    def _controls(self) -> None:
        self.task = gr.Dropdown(
            list(self.driver.suite.tasks),
            value=self.driver.suite.tasks[0],
            allow_custom_value=True,
            label="Instruction",
            info="choose, or write your own",
            elem_id="drive-instruction",
        )
        with gr.Row():
            self.play = gr.Button("▶ Policy plays", variant="primary", elem_id="play")
            self.step = gr.Button("One step", elem_id="key-policy")
            self.stop = gr.Button("Stop", elem_id="stop")
        with gr.Row():
            self.keys = {
                name: gr.Button(_SYMBOLS[name], size="sm", min_width=40, elem_id=f"key-{name}")
                for name in KEYS
            }
        with gr.Row():
            self.again = gr.Button("Same scene again", elem_id="again")
            self.next = gr.Button("Next scene", elem_id="next")
        gr.Markdown(_HELP + _SOLVED[self.driver.suite.has_goals])

    def _wire(self, page: gr.Blocks) -> None:
        shown = [self.state, self.picture, self.status]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        # Whoever moves takes the turn from what was moving before (`Game`): nothing to cancel here.
        page.load(self.begin, [self.task], shown, **quiet)
        now: dict[str, Any] = {**quiet, "trigger_mode": "multiple"}
        self.play.click(self.policy_plays, [self.state, self.task], shown, **now)
        self.picture.select(self.click, [self.state, self.task], shown, **now)
        self.stop.click(self.halt, [self.state, self.task], shown, **now)
        self.again.click(self.repeat, [self.state, self.task], shown, **now)
        self.next.click(self.advance, [self.state, self.task], shown, **now)
        self.task.input(self.tell, [self.state, self.task], shown, **now)
        # A key that is held down repeats faster than a step is taken: what is too many is dropped.
        self.step.click(self.policy_step, [self.state, self.task], shown, **quiet)
        for name, button in self.keys.items():
            button.click(self.key, [gr.State(name), self.state, self.task], shown, **quiet)

    def begin(self, task: str, seed: int = 1) -> tuple[Game, np.ndarray, str]:
        """A game for a visitor."""
        game = Game(self.driver, seed)
        return self.tell(game, task)

    def policy_plays(self, game: Game | None, task: str) -> Iterator[tuple[Game, np.ndarray, str]]:
        """To the end of the episode, which begins anew if it has ended."""
        game = self._game(game, task)
        if game.solved_at is not None or game.steps >= self.driver.suite.max_steps:
            self.repeat(game, task)
        yield from self._moving(game, game.policy_plays())

    def policy_step(self, game: Game | None, task: str) -> tuple[Game, np.ndarray, str]:
        """One action of the policy."""
        game = self._game(game, task)
        game.policy_step()
        return self._shown(game)

    def click(
        self, game: Game | None, task: str, event: gr.SelectData
    ) -> Iterator[tuple[Game, np.ndarray, str]]:
        """To the place in the picture."""
        game = self._game(game, task)
        side = game.camera.size
        yield from self._moving(game, game.click(event.index[0] / side, event.index[1] / side))

    def key(self, name: str, game: Game | None, task: str) -> tuple[Game, np.ndarray, str]:
        """One action of the visitor."""
        game = self._game(game, task)
        game.key(name)
        return self._shown(game)

    def halt(self, game: Game | None, task: str) -> tuple[Game, np.ndarray, str]:
        """No further step of what is moving."""
        game = self._game(game, task)
        game.halt()
        return self._shown(game)

    def tell(self, game: Game | None, task: str) -> tuple[Game, np.ndarray, str]:
        """Another instruction."""
        game = game or Game(self.driver, 1)
        try:
            game.tell(task or "")
        except ValueError as error:
            return *self._shown(game)[:2], f"⚠️ {escape(str(error))}"
        return self._shown(game)

    def repeat(self, game: Game | None, task: str) -> tuple[Game, np.ndarray, str]:
        """The same scene from its beginning."""
        game = self._game(game, task)
        game.start(game.seed)
        return self.tell(game, task)

    def advance(self, game: Game | None, task: str) -> tuple[Game, np.ndarray, str]:
        """The next scene."""
        game = self._game(game, task)
        game.start(game.seed + 1)
        return self.tell(game, task)

    def _game(self, game: Game | None, task: str) -> Game:
        return self.begin(task)[0] if game is None else game  # the server has begun anew

    def _moving(self, game: Game, steps: Iterator[None]) -> Iterator[tuple[Game, np.ndarray, str]]:
        yield self._shown(game)
        for _ in steps:
            yield self._shown(game)
            time.sleep(_PAUSE_S)
        yield self._shown(game)

    def _shown(self, game: Game) -> tuple[Game, np.ndarray, str]:
        return game, game.picture(), f"### {escape(game.status)}"
