# SPDX-License-Identifier: Apache-2.0
"""Whatever is wrong is one screen: the rule, what was got, the remedy; no traceback."""

import errno
import sys
import traceback
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..writing.text import printable_lines

# Which extra of ours brings an optional package.
_EXTRAS = dict.fromkeys(("gymnasium", "mujoco", "matplotlib"), "sim") | {"tensorboard": "demo"}
_EXTRAS |= dict.fromkeys(("trackio", "wandb"), "trackers")
_EXTRAS |= dict.fromkeys(("datatrove", "ray"), "cluster") | {"gradio": "play"}
_EXTRAS |= dict.fromkeys(("lerobot", "draccus"), "lerobot")
_EXTRAS |= dict.fromkeys(("libero", "robosuite", "bddl", "OpenGL"), "libero")


@contextmanager
def one_screen(argv: list[str]) -> Iterator[None]:
    """End with `error: …` and code 2 instead of a traceback, unless `argv` has `--traceback`.

    That flag is taken out of `argv`. An error that nobody has foreseen says where it came from.
    """
    show = take_switch(argv, "traceback")
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        raise SystemExit(130) from None
    except Exception as error:
        if show:
            raise
        from huggingface_hub.errors import StrictDataclassError

        if isinstance(error, StrictDataclassError):  # a model's option: its cause says which
            error = ValueError(str(error.__cause__ or error))
        text = missing_package(error) or str(error)[:2000].strip()
        room = _room(error, text)
        if (
            not isinstance(error, ValueError | OSError | ImportError | FloatingPointError)
            or not text
        ):
            frames = traceback.extract_tb(error.__traceback__)[-3:]
            places = [f"{Path(f.filename).name}:{f.lineno} in {f.name}" for f in frames]
            text = f"{type(error).__name__}: {text} ({' > '.join(places)})"
        if "tqdm" in sys.modules:  # a bar's line ends before the error's begins
            for bar in [*sys.modules["tqdm"].tqdm._instances]:
                bar.close()
        fail(f"{text}{room}\n(--traceback shows where this comes from.)")


def take_switch(argv: list[str], name: str) -> bool:
    """Whether `--name` is there; it is taken out."""
    found = f"--{name}" in argv
    argv[:] = [token for token in argv if token != f"--{name}"]
    return found


def missing_package(error: Exception) -> str:
    """What to install, if an optional package is not there; else nothing."""
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ImportError) or package not in _EXTRAS:
        return ""
    return (
        f"This needs the package `{package}`, which is not installed ({error}). "
        f"Install it: pip install 'lawm_hf[{_EXTRAS[package]}]', or in a clone "
        f"uv pip install -e '.[{_EXTRAS[package]}]'"
    )


def _room(error: Exception, text: str) -> str:
    """The remedy where the operating system lets nobody write: a full disk, a cache of another."""
    from huggingface_hub import constants

    if "Make room" in text:
        return ""
    number, place = getattr(error, "errno", None), Path(str(getattr(error, "filename", None)))
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left on device" in text:
        return f". Make room, or choose another folder; the caches are in {constants.HF_HOME}."
    refused = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT)
    for name in ("HF_HOME", "HF_HUB_CACHE") if number in refused else ():
        cache = Path(getattr(constants, name))
        if place in cache.parents or cache in (place, *place.parents):
            return f". Downloads and recordings go there: set {name} to a folder you can write to."
    return ""


def fail(reason: str) -> typing.NoReturn:
    """End with `error: reason` and code 2."""
    # File names and instructions are others' words: they must not steer a terminal.
    print(f"error: {printable_lines(reason)}", file=sys.stderr)  # noqa: T201
    raise SystemExit(2)
