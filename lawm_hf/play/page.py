# SPDX-License-Identifier: Apache-2.0
"""The page: three tabs. It sends nothing anywhere, and is seen by this machine alone by default."""

from typing import Any

import gradio as gr

from .film import CSS
from .game import Driver
from .run import Run, open_runs
from .studio import Studio
from .tab_drive import KEYBOARD, DriveTab
from .tab_imagine import ImagineTab
from .tab_run import RunTab
from .upload import MAX_BYTES

TITLE = "LAWM: latent actions, imagined"
_TITLE = """# Play with latent actions
Latent actions learned from video without action labels, a world model that imagines under them, and
a policy finetuned from them."""
# Fonts that are there: others would be fetched from elsewhere.
_FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}


def build(pair: Run, policy: Run, source: str = "") -> gr.Blocks:
    """The page of a pair and a policy.

    Args:
        pair: A run of pretraining.
        policy: A run of finetuning.
        source: Spec of the clips, if not the run's own.
    """
    studio = Studio(pair, source)
    driver: Driver | str
    try:
        driver = Driver(policy)
    except ValueError as error:
        driver = str(error)
    # A visitor's video is deleted after an hour.
    shown: dict[str, Any] = {"title": TITLE, "fill_width": True, "delete_cache": (600, 3600)}
    with gr.Blocks(analytics_enabled=False, **shown) as page:
        gr.Markdown(_TITLE)
        with gr.Tab("Imagine", id="imagine"):
            ImagineTab(studio)
        with gr.Tab("Drive", id="drive"):
            DriveTab(driver, page)
        with gr.Tab("Run", id="run"):
            RunTab([pair, policy])
    return page


def serve(
    name: str = "",
    policy: str = "",
    source: str = "",
    host: str | None = "127.0.0.1",
    port: int | None = None,
    **options: Any,
) -> Any:
    """Open the runs, build the page and serve it until it is interrupted.

    Args:
        name: See `open_runs`.
        policy: See `open_runs`.
        source: See `build`.
        host: Address to listen at; None leaves it to Gradio's environment, as a Space needs.
        port: The first free one from 7860 by default.
        **options: Further ones of `gradio.Blocks.launch`.
    """
    pair, driver = open_runs(name, policy)
    page = build(pair, driver, source)
    page.queue(default_concurrency_limit=4)
    theme = gr.themes.Default(primary_hue="indigo", **_FONTS)
    shown: dict[str, Any] = {"theme": theme, "css": CSS, "head": KEYBOARD, "footer_links": []}
    options = {"max_file_size": MAX_BYTES, "state_session_capacity": 100, **options}
    return page.launch(server_name=host, server_port=port, **shown, **options)
