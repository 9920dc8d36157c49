# SPDX-License-Identifier: Apache-2.0
"""Endless mixed batches by the loaders of others, for `dataloading.py`.

Each takes two data sets and the weights of a mixture, and gives batches whose frames are
contiguous `(B, 10, 3, 128, 128)` uint8, in an order as random as its library makes it. What a
library does not do by itself (mix by weight, cut windows out of a clip) is done as its
documentation has it.
"""

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, WeightedRandomSampler

LENGTH = 10  # frames of a window
BUFFER = 512  # windows that are shuffled: as many as 64 open clips of 8 windows have


def lerobot_map(
    roots: Sequence[Path], weights: Sequence[float], batch_size: int, backend: str
) -> Iterator[Tensor]:
    """`LeRobotDataset`, by index."""
    from lerobot.datasets import LeRobotDataset

    parts = []
    for i, root in enumerate(roots):
        options: dict[str, Any] = {"return_uint8": True, "video_backend": backend}
        deltas = _deltas(root)
        parts.append(LeRobotDataset(f"me/{i}", root=root, delta_timestamps=deltas, **options))
    yield from _by_index(ConcatDataset(parts), parts, weights, batch_size, next(iter(deltas)))


def lerobot_stream(
    roots: Sequence[Path], weights: Sequence[float], batch_size: int
) -> Iterator[Tensor]:
    """`StreamingLeRobotDataset`, which needs torchcodec."""
    from lerobot.datasets import StreamingLeRobotDataset
    from torch.utils.data import default_collate

    class Mended(StreamingLeRobotDataset):
        """Of the last episode, LeRobot 0.6.1 reads the frame behind the end: an `IndexError`."""

        def _get_query_timestamps(self, now: float, indices: Any = None, bounds: Any = None) -> Any:
            inside = {key: (a, b - 1 / self.fps) for key, (a, b) in bounds.items()}
            return super()._get_query_timestamps(now, indices, inside)

    key = next(iter(_deltas(roots[0])))
    streams = [
        _endless(
            Mended(
                f"me/{i}",
                root=root,
                delta_timestamps=_deltas(root),
                buffer_size=BUFFER,
                return_uint8=True,
            )
        )
        for i, root in enumerate(roots)
    ]
    for samples in _mixed(streams, weights, batch_size):
        yield default_collate(samples)[key]


def hf_datasets(
    roots: Sequence[Path], weights: Sequence[float], batch_size: int, windows_per_clip: int
) -> Iterator[Tensor]:
    """`datasets.IterableDataset` over tar shards, its videos decoded by torchcodec."""
    from datasets import load_dataset

    rng = np.random.default_rng(0)

    def cut(clips: dict[str, list]) -> dict[str, list]:
        decoder = clips["mp4"][0]
        last = decoder.metadata.num_frames - LENGTH
        # Those that ours takes: spread over the clip, from a random beginning.
        places = np.arange(windows_per_clip) + rng.random()
        starts = rng.permutation((places * (last + 1) / windows_per_clip).astype(int))
        wanted = starts[:, None] + np.arange(LENGTH)
        numbers, positions = np.unique(wanted, return_inverse=True)
        # torchcodec gives them with the channels last in memory.
        frames = decoder.get_frames_at(numbers.tolist()).data.contiguous().numpy()
        return {"frames": list(frames[positions.reshape(wanted.shape)])}

    streams: list[Any] = []
    for root in roots:
        files = sorted(map(str, root.glob("*.tar")))
        stream: Any = load_dataset("webdataset", data_files=files, split="train", streaming=True)
        columns = list(stream.features or next(iter(stream)))
        # Clips are shuffled before they are decoded, windows after.
        stream = stream.shuffle(seed=0, buffer_size=BUFFER).repeat(None)
        stream = stream.map(cut, batched=True, batch_size=1, remove_columns=columns)
        streams.append(stream.shuffle(seed=0, buffer_size=BUFFER))
    # `interleave_datasets` would send each window through Arrow.
    for windows in _mixed([map(_frames, stream) for stream in streams], weights, batch_size):
        yield torch.from_numpy(np.stack(windows))


def stable_worldmodel(
    roots: Sequence[Path], weights: Sequence[float], batch_size: int
) -> Iterator[Tensor]:
    """stable-worldmodel's `VideoDataset`: an mp4 per clip, read by decord."""
    from stable_worldmodel.data import ConcatDataset as Concat  # type: ignore
    from stable_worldmodel.data import VideoDataset  # type: ignore

    parts = [VideoDataset(path=root, num_steps=LENGTH, video_keys=["video"]) for root in roots]
    yield from _by_index(Concat(parts), parts, weights, batch_size, "video")


def write_stable_worldmodel(shards: Path, out: Path) -> Path:
    """The clips of tar shards as stable-worldmodel keeps them, byte for byte."""
    import av

    (out / "video").mkdir(parents=True)
    lengths: list[int] = []
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".mp4"):
                    video = out / f"video/ep_{len(lengths)}.mp4"
                    file = tar.extractfile(member)
                    assert file is not None
                    video.write_bytes(file.read())
                    with av.open(video) as opened:
                        lengths.append(opened.streams.video[0].frames)
    np.savez(out / "ep_len.npz", np.array(lengths, np.int32))
    np.savez(out / "ep_offset.npz", np.cumsum([0, *lengths[:-1]]).astype(np.int64))
    return out


def _deltas(root: Path) -> dict[str, list[float]]:
    from lerobot.datasets import LeRobotDatasetMetadata

    meta = LeRobotDatasetMetadata("me/any", root=root)
    return {meta.camera_keys[0]: [k / meta.fps for k in range(LENGTH)]}


def _by_index(
    joined: Any, parts: Sequence[Any], weights: Sequence[float], batch_size: int, key: str
) -> Iterator[Tensor]:
    each = np.concatenate(
        [np.full(len(p), w / len(p)) for p, w in zip(parts, weights, strict=True)]
    )
    sampler = WeightedRandomSampler(each.tolist(), 1 << 20)
    for batch in DataLoader(joined, batch_size=batch_size, sampler=sampler):
        yield batch[key]


def _mixed(
    streams: Sequence[Iterator[Any]], weights: Sequence[float], batch_size: int
) -> Iterator[list[Any]]:
    rng, shares = np.random.default_rng(0), np.array(weights) / sum(weights)
    while True:
        chosen = rng.choice(len(streams), batch_size, p=shares).tolist()
        yield [next(streams[i]) for i in chosen]


def _frames(sample: dict[str, Any]) -> np.ndarray:
    return sample["frames"]


def _endless(stream: Any) -> Iterator[Any]:
    while True:
        yield from stream
