# SPDX-License-Identifier: Apache-2.0
"""From a stored picture to a square one."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from .bad_clips import BadClipError, regular
from .source import Resize


def fitted_size(width: int, height: int, size: int, resize: Resize) -> tuple[int, int]:
    """Width and height to scale to, before any cropping."""
    if resize == "squash":
        return size, size
    scale = size / min(width, height)
    return max(size, round(width * scale)), max(size, round(height * scale))


def crop_centre(frame: np.ndarray, size: int) -> np.ndarray:
    """The central `(size, size, C)` of `(H, W, C)`, as `(C, size, size)`."""
    top, left = (frame.shape[0] - size) // 2, (frame.shape[1] - size) // 2
    return frame[top : top + size, left : left + size].transpose(2, 0, 1)


def decode_image(data: bytes | Path | np.ndarray, size: int, resize: Resize) -> np.ndarray:
    """A PNG or JPEG, or an array `(H, W, 3)` uint8, as `(3, size, size)` uint8."""
    if isinstance(data, np.ndarray):
        image = Image.fromarray(data)
    else:
        image = Image.open(io.BytesIO(data) if isinstance(data, bytes) else regular(data))
    if image.mode[0] in "IF":  # PIL would cut off whatever is above 255
        values = np.asarray(image)
        if image.mode[0] == "F" or not 0 <= values.min() <= values.max() < 1 << 16:
            raise BadClipError(f"a picture of mode {image.mode}: 8 or 16 bits a channel are read")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    target = fitted_size(*image.size, size, resize)
    if isinstance(image, JpegImageFile):  # decodes at a fraction of its size, still twice ours
        image.draft("RGB", (2 * target[0], 2 * target[1]))
    image = ImageOps.exif_transpose(image).convert("RGB")  # as a camera was held
    target = fitted_size(*image.size, size, resize)
    if image.size != target:  # PIL's bilinear filter widens when it shrinks: no aliasing
        image = image.resize(target, Image.Resampling.BILINEAR)
    return crop_centre(np.asarray(image), size)
