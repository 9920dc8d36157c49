# SPDX-License-Identifier: Apache-2.0
"""Pictures on their way to a GPU while it works on the batch before."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch

# What goes ahead, as uint8. Actions, states and masks are small, and the processor must look at
# their values: on the CPU that makes nobody wait.
_PICTURES = ("images", "frames")


def send_ahead[T](
    batches: Iterable[tuple[dict[str, Any], T]], device: torch.device
) -> Iterator[tuple[dict[str, Any], T]]:
    """Send the pictures of batches to a device, one batch ahead of who takes them.

    They are copied out of pinned memory on a stream of their own. Nothing is taken ahead for a CPU.

    Args:
        batches: Batches, and what belongs to each.
        device: Where pictures go.
    """
    if device.type == "cpu":
        yield from batches
        return
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    sent = None
    for batch, rest in batches:
        if sent is not None:
            # Before the next one is sent, which nobody has to wait for yet.
            _arrive(sent[0], stream)
        ready, sent = sent, (_send(batch, device, stream), rest)
        if ready is not None:
            yield ready
    if sent is not None:
        _arrive(sent[0], stream)
        yield sent


def _send(
    batch: dict[str, Any], device: torch.device, stream: torch.cuda.Stream | None
) -> dict[str, Any]:
    """Begin the copy."""
    sent = dict(batch)
    with torch.cuda.stream(stream):  # pyright: ignore[reportArgumentType]  # None: the current one
        for key in batch.keys() & set(_PICTURES):
            pictures = batch[key] if stream is None else batch[key].pin_memory()
            sent[key] = pictures.to(device, non_blocking=True)
    return sent


def _arrive(batch: dict[str, Any], stream: torch.cuda.Stream | None) -> None:
    """Let the GPU, not the CPU, wait for the copy."""
    if stream is None:
        return
    current = torch.cuda.current_stream(stream.device)
    current.wait_stream(stream)
    for key in batch.keys() & set(_PICTURES):
        batch[key].record_stream(current)  # its memory is kept until then
