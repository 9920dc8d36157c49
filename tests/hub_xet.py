# SPDX-License-Identifier: Apache-2.0
"""What Xet storage adds to the stand-in of the Hub: chunks in xorbs, and files that refer to them.

It keeps what `hf_xet` sends, reads from a shard which file is made of which chunks, and answers how
to put a file together again; the client checks every chunk's hash. Formats and addresses are those
of https://huggingface.co/docs/xet. The SHA-256 that a shard states for a file is checked.
"""

import hashlib
import itertools
import json
import re
import struct
from pathlib import Path
from typing import Any

_ROW = 48  # bytes of each entry of a shard
_END = b"\xff" * 32


class XetStorage:
    """Xorbs as files, and of each file its terms; a restart loses nothing."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._index = folder / "files.json"
        saved = json.loads(self._index.read_text()) if self._index.exists() else [{}, {}]
        self.files: dict[str, str] = saved[0]  # by SHA-256, the name that Xet has for it
        self.terms: dict[str, list[list[Any]]] = saved[1]  # xorb, bytes, first chunk, end

    def size(self, file: str) -> int:
        return sum(length for _, length, _, _ in self.terms[file])

    def call(self, method: str, path: str, body: bytes, request: Any) -> Any:
        """Answer a request, or nothing if there is no such thing here."""
        if method == "POST" and (found := re.fullmatch(r"v1/xorbs/default/(\w{64})", path)):
            xorb = self.folder / found[1]
            is_new = not xorb.exists()
            partial = xorb.with_suffix(".partial")
            partial.write_bytes(body)
            partial.replace(xorb)
            return {"was_inserted": is_new}
        if method == "POST" and path in ("v1/shards", "shards"):
            return {"result": 1} if self._register(body) else None
        if method == "GET" and (found := re.fullmatch(r"v1/reconstructions/(\w{64})", path)):
            return self._reconstruction(found[1], request) if found[1] in self.terms else None
        return None

    def read(self, file: str) -> bytes:
        """A file put together, as for clients that know nothing of Xet."""
        chunks = ((xorb, i) for xorb, _, first, end in self.terms[file] for i in range(first, end))
        return b"".join(self._chunk(xorb, i) for xorb, i in chunks)

    def _register(self, shard: bytes) -> bool:
        """Read the section of files: for each a header, its terms, and its SHA-256 at the end."""
        at = _ROW  # after the shard's own header
        while (name := shard[at : at + 32]) != _END:
            flags, number = struct.unpack_from("<II", shard, at + 32)
            at += _ROW
            terms: list[list[Any]] = []
            for i in range(number):
                xorb = shard[at + i * _ROW : at + i * _ROW + 32]
                _, length, first, end = struct.unpack_from("<IIII", shard, at + i * _ROW + 32)
                terms.append([_text(xorb), length, first, end])
            at += number * _ROW * (2 if flags & 1 << 31 else 1)  # with a proof for each term
            self.terms[_text(name)] = terms
            if flags & 1 << 30:
                # Stored as all hashes of Xet are: as four numbers.
                sha = _text(shard[at : at + 32])
                try:
                    content = self.read(_text(name))
                except (IndexError, ValueError, OSError):  # no chunks, or no such xorb
                    return False
                if hashlib.sha256(content).hexdigest() != sha:
                    return False
                self.files[sha] = _text(name)
                at += _ROW
        partial = self._index.with_suffix(".partial")
        partial.write_text(json.dumps([self.files, self.terms]))
        partial.replace(self._index)
        return True

    def _reconstruction(self, file: str, request: Any) -> dict[str, Any]:
        """Which chunks make up the file, and where their bytes are."""
        terms, spans = [], {}
        for xorb, length, first, end in self.terms[file]:
            chunks = {"start": first, "end": end}
            terms.append({"hash": xorb, "unpacked_length": length, "range": chunks})
            low, high = spans.get(xorb, (first, end))
            spans[xorb] = min(low, first), max(high, end)  # one piece of each, whatever repeats
        fetch = {}
        for xorb, (first, end) in spans.items():
            starts = self._starts(xorb)
            where = {"start": starts[first], "end": starts[end] - 1}
            piece = {"range": {"start": first, "end": end}, "url_range": where}
            fetch[xorb] = [piece | {"url": f"{request.origin()}/xet/{xorb}"}]
        return {"offset_into_first_range": 0, "terms": terms, "fetch_info": fetch}

    def _starts(self, xorb: str) -> list[int]:
        """At which byte each chunk begins, and the last ends: a header of 8 tells its length."""
        data, at, starts = (self.folder / xorb).read_bytes(), 0, [0]
        while at + 8 <= len(data) and data[at] == 0:  # the version of a chunk; then a footer
            at += 8 + int.from_bytes(data[at + 1 : at + 4], "little")
            starts.append(at)
        return starts

    def _chunk(self, xorb: str, index: int) -> bytes:
        start = self._starts(xorb)[index]
        data = (self.folder / xorb).read_bytes()
        scheme, length = data[start + 4], int.from_bytes(data[start + 5 : start + 8], "little")
        packed = data[start + 8 : start + 8 + int.from_bytes(data[start + 1 : start + 4], "little")]
        plain = bytearray(_unpack(packed) if scheme else packed)
        if scheme == 2:  # the first bytes of all groups of 4, then the second ones, ...
            bounds = [0]
            for i in range(4):
                bounds.append(bounds[-1] + (length + 3 - i) // 4)
            groups = [plain[a:b] for a, b in itertools.pairwise(bounds)]
            for i, group in enumerate(groups):
                plain[i::4] = group
        return bytes(plain)


def _unpack(frame: bytes) -> bytes:
    """Of an LZ4 frame what it holds."""
    flags, at, out = frame[4], 7 + (8 if frame[4] & 8 else 0), bytearray()
    while size := int.from_bytes(frame[at : at + 4], "little"):
        at, length = at + 4, size & 0x7FFFFFFF
        block = frame[at : at + length]
        out += block if size >> 31 else b""
        if not size >> 31:
            _unpack_block(block, out)
        at += length + (4 if flags & 16 else 0)
    return bytes(out)


def _unpack_block(block: bytes, out: bytearray) -> None:
    at = 0

    def count(start: int) -> int:
        nonlocal at
        more = 255 if start == 15 else 0
        while more == 255:
            more, at = block[at], at + 1
            start += more
        return start

    while at < len(block):
        token, at = block[at], at + 1
        literals = count(token >> 4)
        out += block[at : at + literals]
        at += literals
        if at >= len(block):
            return
        offset, at = int.from_bytes(block[at : at + 2], "little"), at + 2
        length = count(token & 15) + 4
        while length:  # what is copied may overlap with what it writes
            piece = out[len(out) - offset :][:length]
            out += piece
            length -= len(piece)


def _text(name: bytes) -> str:
    """As addresses have it: four numbers of 64 bits."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", name))
