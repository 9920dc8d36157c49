# SPDX-License-Identifier: Apache-2.0
"""A source without files, whose pixels are the frame number."""

import itertools

import numpy as np

from lawm_hf.data import Features, Source, WindowSpec

WINDOW = WindowSpec(chunk_size=2, image_size=2, with_frames=True)


class FakeSource(Source):
    """Pictures whose pixels are the frame number. Clips in `bad` cannot be decoded."""

    def __init__(self, name, lengths, bad=(), known=True, files=None, action_size=0, state_size=0):
        self.name, self.bad, self._lengths = name, set(bad), np.asarray(lengths)
        self.features = Features(10.0, ("camera",), state_size, action_size)
        self.lengths = self._lengths if known else None
        self.clips = np.arange(len(lengths))
        self.files = files

    def clip_name(self, clip):
        return f"{self.name}/{clip}"

    def task(self, clip):
        return "lift"

    def length(self, clip):
        return int(self._lengths[clip])

    def decode(self, clip, camera, indices, size, resize):
        if clip in self.bad:
            raise OSError("broken")
        frames = np.empty((len(indices), 3, size, size), np.uint8)
        frames[:] = indices[:, None, None, None]
        return frames


def indices(loader, num_batches):
    """Which samples the next batches hold."""
    return [b["index"].tolist() for b in itertools.islice(iter(loader), num_batches)]
