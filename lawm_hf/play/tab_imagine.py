# SPDX-License-Identifier: Apache-2.0
"""First tab: a clip, the future imagined under its latents, and under others."""

import textwrap
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from ..hub.text import escape
from .film import film, films
from .studio import Scene, Studio
from .upload import MAX_BYTES, read_upload

_SHOWN = 24  # clips to pick from
_RANGE = 3.0  # standard deviations that a slider goes to either side
_HELP = """
**What you see.** The policy looks at the first frame and the instruction, and says *latent
actions*. From that frame and these latents alone the world model draws what follows. Move a slider,
and the third row follows; swap the instruction; or take the same latents to another first frame.
"""


class ImagineTab:
    """Builds the tab inside the Blocks that are open.

    Args:
        studio: What it computes with.
    """

    def __init__(self, studio: Studio):
        self.studio = studio
        picks = np.linspace(0, len(studio.scenes) - 1, min(_SHOWN, len(studio.scenes)))
        self.picks: list[int] = picks.round().astype(int).tolist()
        first = self._open(studio.scenes[self.picks[0]])
        self.state = gr.State(first)
        with gr.Row():
            with gr.Column(scale=4, min_width=320):
                self._left(first)
            with gr.Column(scale=7, min_width=480):
                self._right(first)
        self._wire()

    def _left(self, first: dict[str, Any]) -> None:
        self.gallery = self._clips("1 · Pick a clip", "pick-clip")
        with gr.Accordion("or bring a video of yours", open=False):
            self.file = gr.File(
                label=f"mp4, webm, mov, avi, mkv; at most {MAX_BYTES >> 20} MiB",
                type="filepath",
                height=110,
                elem_id="upload",
            )
            self.words = gr.Textbox(
                "", label="What is done in it?", placeholder="go to the red cube", elem_id="words"
            )
            self.start = gr.Number(0, label="from second", minimum=0, elem_id="start-second")
            self.read = gr.Button("Look at it", elem_id="read-upload")
        self.said = gr.Markdown("", elem_id="upload-said")
        self.task = gr.Dropdown(
            self.studio.tasks,
            value=first["task"],
            allow_custom_value=True,
            label="2 · Swap the instruction",
            info="choose, or write your own",
            elem_id="instruction",
        )
        with gr.Accordion("3 · Start somewhere else, with the same latents", open=False):
            self.starts = self._clips("whose first frame?", "pick-start")
            self.home = gr.Button("Back to the clip's own first frame", size="sm", elem_id="home")
        steps, interval = self.studio.window.chunk_size, self.studio.interval
        gr.Markdown(_HELP + f"A row is {steps} steps of {interval:.2g} s.")

    def _right(self, first: dict[str, Any]) -> None:
        pictures = self._pictures(first)
        self.video, self.own, self.yours = (
            gr.HTML(html, elem_id=name, padding=False)
            for html, name in zip(pictures[:3], ("video", "own", "yours"), strict=True)
        )
        with gr.Row(equal_height=True):
            gr.Markdown("4 · Move the latents along their main directions", elem_classes="label")
            self.back = gr.Button("Back to the clip's own latents", size="sm", elem_id="back")
        self.sliders = []
        with gr.Row():
            for i, place in enumerate(first["places"]):
                share = self.studio.directions.shares[i]
                slider = gr.Slider(
                    -_RANGE,
                    _RANGE,
                    value=place,
                    step=0.01,
                    label=f"direction {i + 1} ({share:.0%} of the variance)",
                    min_width=280,
                    elem_id=f"direction-{i + 1}",
                    buttons=[],
                )
                self.sliders.append(slider)
        gr.Markdown("Clips whose latents are most alike", elem_classes="label")
        self.nearest = gr.HTML(pictures[3], elem_id="nearest", padding=False)

    def _clips(self, label: str, name: str) -> gr.Gallery:
        scenes = [self.studio.scenes[i] for i in self.picks]
        return gr.Gallery(
            [_thumbnail(scene.frames[0]) for scene in scenes],
            label=label,
            columns=6,
            height="auto",
            object_fit="cover",
            allow_preview=False,
            buttons=[],
            elem_id=name,
            format="png",
        )

    def _wire(self) -> None:
        everything = [self.said, self.state, self.video, self.own, self.yours, self.nearest]
        everything += [self.task, *self.sliders]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.gallery.select(self.pick, None, everything, **quiet)
        upload = [self.state, self.file, self.words, self.start]
        self.read.click(self.upload, upload, everything, **quiet)
        self.task.input(self.swap, [self.state, self.task], everything, **quiet)
        changed = [self.state, self.yours]
        for slider in self.sliders:
            slider.input(
                *(self.move, [self.state, *self.sliders], changed),
                **quiet,
                trigger_mode="always_last",
                queue=False,  # spares a way to and fro
            )
            slider.release(self.look_around, [self.state], [self.nearest], **quiet)
        self.back.click(self.reset, [self.state], everything, **quiet)
        self.starts.select(self.elsewhere, [self.state], changed, **quiet)
        self.home.click(self.at_home, [self.state], changed, **quiet)

    # ---------------------------------------------------------------- what the events do

    def pick(self, event: gr.SelectData) -> list[Any]:
        """A clip of the gallery."""
        return self._all(self._open(self.studio.scenes[self.picks[event.index]]))

    def upload(self, state: dict[str, Any], file: str | None, words: str, start: float) -> list:
        """A video of the visitor's; one sentence where it cannot be used."""
        if not file:
            return self._unchanged("Choose a video first.")
        try:
            scene = read_upload(self.studio, file, words or state["task"], start or 0.0)
        except ValueError as error:
            return self._unchanged(str(error))
        return self._all(self._open(scene), f"Read {escape(scene.name)}.")

    def swap(self, state: dict[str, Any], task: str) -> list[Any]:
        """Another instruction for the same clip."""
        try:
            latents = self.studio.latents_of(state["scene"], task or "")
        except ValueError as error:
            return self._unchanged(str(error))
        places = self._places(latents)
        return self._all({**state, "task": task, "base": latents, "places": places})

    def move(self, state: dict[str, Any], *places: float) -> tuple[dict[str, Any], str]:
        """A slider."""
        state = {**state, "places": list(places)}
        return state, self._yours(state)

    def look_around(self, state: dict[str, Any]) -> str:
        """The nearest clips of the latents as they are."""
        return self._nearest(state)

    def reset(self, state: dict[str, Any]) -> list[Any]:
        """The clip's own latents and frame."""
        return self._all(self._open(state["scene"]))

    def elsewhere(self, state: dict[str, Any], event: gr.SelectData) -> tuple[dict[str, Any], str]:
        """Another clip's first frame."""
        state = {**state, "start": self.studio.scenes[self.picks[event.index]]}
        return state, self._yours(state)

    def at_home(self, state: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """The clip's own first frame."""
        state = {**state, "start": state["scene"]}
        return state, self._yours(state)

    # ---------------------------------------------------------------- what they show

    def _open(self, scene: Scene) -> dict[str, Any]:
        latents = self.studio.latents_of(scene, scene.task)
        places = self._places(latents)
        known = {"scene": scene, "start": scene, "task": scene.task}
        return known | {"base": latents, "own": latents, "places": places}

    def _places(self, latents: np.ndarray) -> list[float]:
        return [round(min(max(p, -_RANGE), _RANGE), 2) for p in self.studio.places(latents)]

    def _all(self, state: dict[str, Any], said: str = "") -> list[Any]:
        return [said, state, *self._pictures(state), state["task"], *state["places"]]

    def _unchanged(self, said: str) -> list[Any]:
        return [f"⚠️ {escape(said)}", *[gr.skip()] * (6 + len(self.sliders))]

    def _pictures(self, state: dict[str, Any]) -> list[str]:
        scene, own = state["scene"], self.studio.imagine(state["scene"], state["own"])
        return [
            film(scene.frames, "The video", f"{scene.name}: “{scene.task}”"),
            film(own, "Imagined", "from its first frame, under its own latents"),
            self._yours(state),
            self._nearest(state),
        ]

    def _latents(self, state: dict[str, Any]) -> np.ndarray:
        change = np.array(state["places"]) - self._places(state["base"])
        return self.studio.moved(state["base"], change)

    def _yours(self, state: dict[str, Any]) -> str:
        latents, start, scene = self._latents(state), state["start"], state["scene"]
        words = []
        if start is not scene and start.name != scene.name:
            words.append(f"from the first frame of {start.name}")
        if state["task"] != scene.task:
            words.append(f"told “{textwrap.shorten(state['task'], 60)}”")
        is_moved = state["places"] != self._places(state["base"])
        words.append("latents moved by you" if is_moved else "latents as the policy says them")
        return film(self.studio.imagine(start, latents), "Imagined, yours", ", ".join(words))

    def _nearest(self, state: dict[str, Any]) -> str:
        found = self.studio.nearest(self._latents(state))
        return films([(s.frames, f"cosine {c:.2f}: “{s.task}”") for s, c in found])


def _thumbnail(frame: np.ndarray) -> Image.Image:
    return Image.fromarray(frame.transpose(1, 2, 0)).resize((96, 96), Image.Resampling.BICUBIC)
