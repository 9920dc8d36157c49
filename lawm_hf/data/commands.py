# SPDX-License-Identifier: Apache-2.0
"""`lawm-hf data inspect SPEC` and `lawm-hf convert KIND SRC --out DIR`."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .bad_clips import BadClipError, BadClips
from .convert import Conversion, left_out, write_lerobot, write_shards
from .formats.videos import VideoSource
from .source import Source
from .spec import open_source

_SHEET_CLIPS, _SHEET_FRAMES, _SHEET_SIZE = 6, 8, 96


def inspect_source(spec: str, sheet: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the source holds, for people and for programs; writes the contact sheet."""
    if Path(sheet).suffix.lower() not in Image.registered_extensions() or Path(sheet).is_dir():
        raise ValueError(f"`sheet` must be a picture to write, got {sheet!r}. Name it `NAME.png`.")
    source = open_source(spec)
    picture = contact_sheet(source)
    found, features = describe(source), source.features
    picture.save(sheet)
    facts = {name: found[name] for name in ("source", "clips", "frames", "fingerprint")}
    facts |= {"cameras": list(features.cameras), "fps": float(features.fps), "sheet": sheet}
    facts |= {"state_size": features.state_size, "action_size": features.action_size}
    return found | {"contact sheet": sheet}, facts


def describe(source: Source) -> dict[str, Any]:
    """Counts, rate, cameras, sizes and the first instruction."""
    features, clips = source.features, source.clips
    tasks = [task for clip in clips for task in source.tasks(int(clip))]
    if source.lengths is not None:
        lengths, note = source.lengths[clips], ""
    else:
        bad, found = BadClips(source), []
        for clip in clips[:: max(1, len(clips) // 50)].tolist():
            with bad.skipped(clip):
                found.append(source.length(clip))
        if not found:
            raise bad.too_many()
        lengths, note = np.array(found), f" ({len(found)} looked at, {len(bad.bad)} bad)"
    return {
        "source": source.name,
        "clips": len(clips),
        "frames": int(lengths.sum()) if not note else f"about {int(lengths.mean() * len(clips))}",
        "frames per clip": f"{lengths.min()} … {lengths.mean():.1f} … {lengths.max()}{note}",
        "rate": f"{features.fps:g} frames per second",
        "cameras": ", ".join(features.cameras),
        "state, action": f"{features.state_size or 'none'}, {features.action_size or 'none'}",
        "instructions": f"{len(set(tasks))} different",
        "first instruction": textwrap.shorten(tasks[0], 200, placeholder=" ..."),
        "fingerprint": source.fingerprint(),
    }


def contact_sheet(source: Source) -> Image.Image:
    """Frames, evenly spaced, of sound clips evenly spaced; a row each.

    Raises:
        RuntimeError: If there is no sound one among them.
    """
    if not source.features.cameras:
        raise ValueError(f"{source.name} has no camera: it holds no pictures that could be seen.")
    rows, bad = [], BadClips(source, max_share=1.0)
    for clip in source.clips[:: max(1, len(source.clips) // _SHEET_CLIPS)][:_SHEET_CLIPS].tolist():
        with bad.skipped(clip):
            length = source.length(clip)
            if not length:
                raise BadClipError("no frames")
            wanted = np.linspace(0, length - 1, _SHEET_FRAMES).round().astype(int)
            unique, places = np.unique(wanted, return_inverse=True)
            frames = source.decode(clip, source.features.cameras[0], unique, _SHEET_SIZE, "squash")
            rows.append(np.concatenate(frames[places].transpose(0, 2, 3, 1), axis=1))
    if not rows:
        raise bad.too_many()
    return Image.fromarray(np.concatenate(rows))


def run_convert(args: Any) -> dict[str, Any]:
    """Convert; how many clips there are now, in which format, and what was left out."""
    executor = args.make_executor()
    source = open_source(f"{args.kind}:{args.src}")
    kind = args.format or ("shards" if isinstance(source, VideoSource) else "lerobot")
    default_part = 1000 if kind == "shards" else 100
    how = Conversion(
        image_size=args.image_size,
        resize=args.resize,
        fps=args.fps,
        clips_per_part=default_part if args.clips_per_part is None else args.clips_per_part,
    )
    write = write_shards if kind == "shards" else write_lerobot
    write(source, args.out, how, executor)
    skipped = left_out(args.out)
    made = {"out": str(args.out), "format": kind, "clips": len(source.clips) - len(skipped)}
    return made | {"left_out": skipped}
