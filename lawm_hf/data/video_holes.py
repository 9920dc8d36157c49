# SPDX-License-Identifier: Apache-2.0
"""What an interrupted download leaves in a video: zeros, which some decoders take for pictures."""

from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

from .bad_clips import BadClipError

# An interrupted download leaves zeros, which VP9 decodes to garbage without a complaint. Sound
# packets never begin or end with so many, and by codec never hold so many in a row: H.264 and HEVC
# forbid three; arithmetic coding leaves up to 55 in AV1 and 22 in VP8 where much is predicted.
_EDGE = bytes(16)
_HOLES = {"h264": 16, "hevc": 16, "mpeg4": 16, "vp9": 128, "vp8": 512, "av1": 512}
_EBML, _TAIL = b"\x1a\x45\xdf\xa3", 1 << 20  # how Matroska begins; how much of its end is looked at


def has_hole(data: bytes, codec: str, container: str) -> bool:
    """Whether a compressed frame holds more zeros than a sound one can."""
    if codec not in _HOLES or not data:
        return False
    if _EDGE not in data:
        return not data.strip(b"\0")
    if codec in ("h264", "hevc") and not container.startswith(("mov", "matroska")):
        return bytes(512) in data  # other containers may pad between the units of a packet
    return data.startswith(_EDGE) or data.endswith(_EDGE) or bytes(_HOLES[codec]) in data


def check_end(file: str | Path | BinaryIO) -> None:
    """Refuse a Matroska or WebM file that ends in zeros, as an interrupted download leaves it.

    Its demuxer steps over them, and what is left of the last frames has wrong times. Zeros that an
    element `Void` announces are room that an editor has left.
    """
    with Path(file).open("rb") if isinstance(file, str | Path) else nullcontext(file) as data:
        place = data.tell()  # an open demuxer may go on from there
        data.seek(0)
        begin, size = data.read(4), data.seek(0, 2)
        data.seek(max(0, size - _TAIL))
        tail = data.read(_TAIL)
        data.seek(place)
    last = len(tail.rstrip(b"\0")) - 1
    if begin != _EBML or len(tail) - 1 - last < 16:
        return
    for at in range(max(0, last - 8), last + 1):
        if tail[at] == 0xEC and at + 1 < len(tail):  # Void, and a number as EBML writes it
            width = 9 - tail[at + 1].bit_length()
            number = int.from_bytes(tail[at + 1 : at + 1 + width]) & ~(1 << (7 * width))
            if at + 1 + width + number == len(tail):
                return
    raise BadClipError("the file ends in zeros, as an interrupted download does: fetch it again")
