# SPDX-License-Identifier: Apache-2.0
"""A clip in a browser: one small PNG of all its frames, played and laid out by CSS.

Nothing is enlarged or encoded as video here, so a new picture costs a millisecond and 20 kB.
"""

import base64
import html
import io
import time

import numpy as np
from PIL import Image

_FRAME_S = 0.18  # each frame stays so long

CSS = """
.film {display: flex; align-items: center; gap: 14px}
.film .moving {flex: 0 0 auto; width: 140px; height: 140px; border-radius: 8px;
  background-repeat: no-repeat; animation-iteration-count: infinite; animation-name: film-runs}
.film .rest {flex: 1 1 auto; min-width: 0}
.film .words {font-size: 14px; margin-bottom: 4px}
.film .words b {font-weight: 600}
.film .strip {width: 100%; background-size: 100% 100%; border-radius: 6px}
.films {display: flex; gap: 14px; flex-wrap: wrap}
.films .one {width: 140px; font-size: 13px; line-height: 1.25}
.label p {font-size: 14px; color: var(--block-label-text-color)}
#pick-clip .grid-wrap, #pick-start .grid-wrap {max-height: none; min-height: 0; padding-top: 30px}
#pick-clip .grid-container, #pick-start .grid-container {
  grid-template-columns: repeat(6, minmax(0, 1fr)); grid-template-rows: none;
  grid-auto-rows: min-content; gap: 6px; overflow: visible}
#pick-clip .thumbnail-item, #pick-start .thumbnail-item {aspect-ratio: 1; height: auto}
@keyframes film-runs {from {background-position-x: 0%} to {background-position-x: 100%}}
"""


def sprite(frames: np.ndarray) -> str:
    """Frames `(T, 3, H, W)` uint8 side by side, as the address of a PNG that holds itself."""
    row = np.concatenate(list(frames.transpose(0, 2, 3, 1)), axis=1)
    buffer = io.BytesIO()
    Image.fromarray(row).save(buffer, "PNG", compress_level=3)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def film(frames: np.ndarray, title: str, words: str = "", key: str = "") -> str:
    """HTML of a clip: playing, and frame by frame beside it.

    Args:
        frames: `(T, 3, H, W)` uint8.
        title: In bold above it.
        words: What else is to be said; a stranger's words are safe here.
        key: A class for tests and styles.
    """
    address, count = sprite(frames), len(frames)
    return (
        f'<div class="film {html.escape(key)}">{_moving(address, count)}<div class="rest">'
        f'<div class="words"><b>{html.escape(title)}</b> {html.escape(words)}</div>'
        f'<div class="strip" style="aspect-ratio: {count}; background-image: url({address})">'
        "</div></div></div>"
    )


def films(clips: list[tuple[np.ndarray, str]], key: str = "") -> str:
    """HTML of several clips playing side by side, each with a caption below."""
    ones = [
        f'<div class="one film" style="display: block">{_moving(sprite(frames), len(frames))}'
        f"<div>{html.escape(caption)}</div></div>"
        for frames, caption in clips
    ]
    return f'<div class="films {html.escape(key)}">{"".join(ones)}</div>'


def _moving(address: str, count: int) -> str:
    # The clock decides where it stands, so that a new picture goes on where the old one was, and
    # all clips of a page move together.
    duration = _FRAME_S * count
    style = (
        f"background-image: url({address}); background-size: {100 * count}% 100%; "
        f"animation-duration: {duration:.2f}s; animation-delay: -{time.time() % duration:.2f}s; "
        f"animation-timing-function: steps({count}, jump-none)"
    )
    return f'<div class="moving" style="{style}"></div>'
