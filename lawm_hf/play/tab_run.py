# SPDX-License-Identifier: Apache-2.0
"""Third tab: a run's losses and health over updates, its strips, its success."""

from typing import Any

import gradio as gr
import pandas as pd
from PIL import Image

from .record import HEALTH, Record, read_record
from .run import Run


class RunTab:
    """Builds the tab inside the Blocks that are open.

    Args:
        runs: Those that may be looked at.
    """

    def __init__(self, runs: list[Run]):
        self.runs = {_label(run): run for run in runs}
        first = next(iter(self.runs))
        record = read_record(self.runs[first])
        with gr.Row():
            self.name = gr.Dropdown(list(self.runs), value=first, label="Run", elem_id="run")
            self.again = gr.Button("Read it again", scale=0, min_width=160, elem_id="read-run")
        shown = self._shown(record, None, None)
        with gr.Row():
            self.what_loss = gr.Dropdown(**_choice(record.log, "loss"), label="In training")
            self.what_health = gr.Dropdown(
                **_choice(record.health, "swap_gap_share"), label="In the health report"
            )
        with gr.Row():
            self.loss = gr.LinePlot(**shown[0], height=260, elem_id="loss", buttons=[])
            self.health = gr.LinePlot(**shown[1], height=260, elem_id="health", buttons=[])
        self.alarms = gr.Markdown(shown[2], elem_id="alarms")
        self.results = gr.Dataframe(
            **shown[3], label="Success", interactive=False, elem_id="results", buttons=[]
        )
        self.strips = gr.Gallery(
            **shown[4],
            label="Imagined on the way",
            columns=2,
            height="auto",
            object_fit="contain",
            elem_id="strips",
        )
        self._wire()

    def _wire(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        # What was chosen for one run may not be a choice of the next.
        quiet["preprocess"] = False
        asked = [self.name, self.what_loss, self.what_health]
        told = [self.what_loss, self.what_health, self.loss, self.health]
        told += [self.alarms, self.results, self.strips]
        self.name.input(self.read, asked, told, **quiet)
        self.again.click(self.read, asked, told, **quiet)
        for choice in asked[1:]:
            choice.input(self.read, asked, told, **quiet)

    def read(self, name: str, loss: str | None, health: str | None) -> list[Any]:
        """Read the files of a run as they are now."""
        record = read_record(self.runs.get(name) or next(iter(self.runs.values())))
        first, second, *rest = self._shown(record, loss, health)
        rest = [rest[0], gr.Dataframe(**rest[1]), gr.Gallery(**rest[2])]
        choices = [_choice(record.log, "loss", loss), _choice(record.health, "", health)]
        choices[1]["visible"] = len(record.health) > 0
        plots = [gr.LinePlot(**first), gr.LinePlot(**second)]
        return [*(gr.Dropdown(**choice) for choice in choices), *plots, *rest]

    def _shown(self, record: Record, loss: str | None, health: str | None) -> list[Any]:
        alarms = "\n".join(f"- ⚠️ {alarm}" for alarm in record.alarms)
        quiet = "No alarm." if len(record.health) else "No health report (yet)."
        return [
            _plot(record.log, _choice(record.log, "loss", loss)["value"]),
            _plot(record.health, _choice(record.health, "", health)["value"])
            | {"visible": len(record.health) > 0},
            alarms or quiet,
            {"value": record.results, "visible": len(record.results) > 0},
            # As pictures: a path would open the run's folder to whoever sees the page.
            {
                "value": [(Image.open(path), caption) for path, caption in record.strips],
                "visible": bool(record.strips),
            },
        ]


def _label(run: Run) -> str:
    return f"{'pretraining' if run.is_pair else 'finetuning'}: {'/'.join(run.folder.parts[-2:])}"


def _choice(frame: pd.DataFrame, default: str, wanted: str | None = None) -> dict[str, Any]:
    names = [name for name in frame.columns if name != "step"]
    value = next((name for name in (wanted, default) if name in names), None)
    choices = [(HEALTH.get(name, name.replace("_", " ")), name) for name in names]
    return {"choices": choices, "value": value or (names[0] if names else None)}


def _plot(frame: pd.DataFrame, column: str | None) -> dict[str, Any]:
    """Value and axes of a plot."""
    if column is None:
        return {"value": pd.DataFrame({"update": [], "value": []}), "x": "update", "y": "value"}
    points = pd.DataFrame({"update": frame["step"], "value": frame[column]}).dropna()
    title = HEALTH.get(column, column.replace("_", " "))
    return {"value": points, "x": "update", "y": "value", "title": title, "y_title": column}
