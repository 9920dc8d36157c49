# SPDX-License-Identifier: Apache-2.0
"""The method in one figure.

uv run python docs/figures/method.py

Writes `docs/method.svg`.
"""

from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK, POLICY, WORLD, ACTIONS, DATA = "#24292f", "#d6e6fb", "#fde4c8", "#dcf0dc", "#f3f4f6"
STYLE = {"svg.fonttype": "path", "svg.hashsalt": "lawm", "font.family": "DejaVu Sans"}


def box(axis, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    """A rounded box around `(x, y)` with a bold first line."""
    corner = (x - width / 2, y - height / 2)
    shape = FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=0.12")
    shape.set(facecolor=colour, edgecolor=INK, linewidth=1)
    axis.add_patch(shape)
    head, _, rest = text.partition("\n")
    lift = 0.16 if rest else 0
    axis.text(x, y + lift, head, ha="center", va="center", size=11, weight="bold", color=INK)
    axis.text(x, y - 0.18, rest, ha="center", va="center", size=9, color=INK)


def arrow(axis, start: tuple, end: tuple, text: str = "", colour: str = INK, **options) -> None:
    """An arrow, its text above the middle."""
    style = {"arrowstyle": "-|>", "mutation_scale": 13, "linewidth": 1.4, "color": colour}
    axis.add_patch(FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, **(style | options)))
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    axis.text(x, y + 0.1, text, ha="center", va="bottom", size=9, color=colour)


def draw(axis) -> None:
    """Two rows: pretraining on video, finetuning on demonstrations."""
    axis.set(xlim=(0, 12.2), ylim=(0.3, 6.1))
    axis.axis("off")

    axis.text(0.1, 5.8, "1  Pretrain on video, no actions", size=13, weight="bold", color=INK)
    box(axis, 1.3, 4.5, 2.2, 1.0, "Video\nfirst frame, instruction", DATA)
    box(axis, 4.5, 4.5, 2.0, 1.0, "Policy\nBAKU, diffusion, ...", POLICY)
    box(axis, 8.1, 4.5, 2.1, 1.0, "World model\nDreamerV3", WORLD)
    box(axis, 11.1, 4.5, 1.9, 1.0, "Loss\nthe real next frames", DATA)
    arrow(axis, (2.4, 4.5), (3.5, 4.5))
    arrow(axis, (5.5, 4.6), (7.05, 4.6), "latent\nactions")
    arrow(axis, (9.15, 4.6), (10.15, 4.6), "imagined\nframes")
    arrow(axis, (1.3, 5.0), (8.1, 5.0), connectionstyle="arc3,rad=-0.13", linewidth=1)
    axis.text(3.0, 5.42, "first frame", size=9, color=INK, rotation=4)
    back = "#b42318"
    arrow(axis, (10.15, 4.22), (9.15, 4.22), colour=back, linestyle=(0, (4, 2)))
    arrow(axis, (7.05, 4.22), (5.5, 4.22), colour=back, linestyle=(0, (4, 2)))
    axis.text(5.9, 3.65, "the gradient reaches every weight of both", size=9, color=back)

    arrow(axis, (4.5, 4.0), (4.5, 2.05), colour=INK, linewidth=2)
    axis.text(4.7, 2.92, "keep the policy, with a fresh last layer;\ndrop the world model", size=9)

    axis.text(0.1, 2.35, "2  Finetune on few labels", size=13, weight="bold", color=INK)
    box(axis, 1.3, 1.5, 2.2, 1.0, "Demonstrations\nviews, state, instruction", DATA)
    box(axis, 4.5, 1.5, 2.0, 1.0, "Policy\nthe same weights", POLICY)
    box(axis, 8.1, 1.5, 2.1, 1.0, "Robot actions\na chunk of N steps", ACTIONS)
    box(axis, 11.1, 1.5, 1.9, 1.0, "Loss\nrecorded actions", DATA)
    arrow(axis, (2.4, 1.5), (3.5, 1.5))
    arrow(axis, (5.5, 1.5), (7.05, 1.5))
    arrow(axis, (9.15, 1.5), (10.15, 1.5))
    axis.text(6.9, 0.55, "Then: the tabletop, LIBERO, or an arm of LeRobot", size=9, ha="center")


def main() -> None:
    """Write the figure."""
    mpl.rcParams.update(STYLE)
    figure = Figure(figsize=(10.2, 4.85))
    FigureCanvasSVG(figure)
    draw(figure.add_axes((0, 0, 1, 1)))
    path = Path(__file__).parent.parent / "method.svg"
    figure.savefig(path, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
