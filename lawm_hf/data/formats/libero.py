# SPDX-License-Identifier: Apache-2.0
"""LIBERO's own HDF5 files, `<suite>/<TASK>_demo.hdf5`, 20 Hz.

Two traps. Pictures and states were stored *after* the step, so `obs[t]` is the result of
`actions[t]` (LIBERO's create_dataset.py); the action that the policy should take at `obs[t]` is
`actions[t + 1]`, and the last picture has none. Files that were regenerated without idle actions
(`*_no_noops`), which lack the attributes of LIBERO's own, store them *before*. And the pictures are
in OpenGL's orientation, upside down; the LeRobot sets turned them by 180°, as must every evaluation
of what was trained on them. Gripper: -1 opens, +1 closes.
"""

import json
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...writing.text import get_logger
from ..files import LocalFiles
from ..images import decode_image
from ..lru import LRU
from ..source import BadClipError, Features, Resize, Source
from ..text import from_path, printable

logger = get_logger(__name__)

Orientation = Literal["rotate180", "stored"]
_CAMERAS = {"image": "agentview_rgb", "image2": "eye_in_hand_rgb"}  # names of `lerobot/libero`
_OPEN_FILES = 8
_MOST_BYTES = 4 << 30  # of one camera of one demonstration
_MOST_RATIO = 1100  # of compression: gzip reaches 1032


class LiberoSource(Source):
    """LIBERO's HDF5 demonstrations.

    Args:
        root: A folder with the suites, or of one suite.
        suite: Only files in a folder of that name, such as `libero_90`.
        orientation: `"rotate180"` as in all LeRobot sets of LIBERO, or `"stored"`.
        observed: Whether `obs[t]` is of `"before"` or `"after"` `actions[t]`; each file tells.
    """

    def __init__(
        self,
        root: str | Path,
        suite: str | None = None,
        orientation: Orientation = "rotate180",
        observed: Literal["before", "after"] | None = None,
    ):
        if observed not in (None, "before", "after"):
            raise ValueError(f"`observed` is before or after, got {observed!r}.")
        if orientation not in ("rotate180", "stored"):
            raise ValueError(f"`orientation` is rotate180 or stored, got {orientation!r}.")
        self.files_root, self.orientation = LocalFiles(root), orientation
        self.name = f"libero:{root}" + (f",suite={suite}" if suite else "")
        paths = [
            p
            for p in self.files_root.list("", ".hdf5")
            if suite is None or suite in (*Path(p).parts, self.files_root.root.name)
        ]
        if not paths:
            where = f"{suite}/" if suite else ""
            raise FileNotFoundError(f"No {where}*.hdf5 below {self.files_root.root}.")
        self.reopen()
        self._demos: list[tuple[str, str]] = []
        self._tasks: list[str] = []
        self._lag: list[int] = []  # steps from an action to what was observed with it
        lengths: list[int] = []
        for path in paths:
            try:
                data = _inside(self._open(path), "data")
                own = "problem_info" in data.attrs or "env_args" in data.attrs
                lag = int(observed == "after" or (observed is None and own))
                names = sorted(data, key=lambda name: int("0" + re.sub(r"\D", "", name)))
            except (OSError, KeyError, ValueError, RuntimeError, BadClipError) as error:  # h5py's
                logger.warning("Skipped all of %s: %s", printable(path), error)
                continue
            for demo in names:
                try:
                    length = len(_numbers(_inside(data, demo, "actions"), 2)) - lag
                except (OSError, KeyError, ValueError, RuntimeError, BadClipError) as error:
                    logger.warning("Skipped %s of %s: %s", printable(demo), printable(path), error)
                    continue
                self._demos.append((path, demo))
                self._tasks.append(instruction(path))
                self._lag.append(lag)
                lengths.append(length)
        if not lengths:
            raise ValueError(f"None of the {len(paths)} files of {self.name} can be read.")
        if regenerated := self._lag.count(0):
            logger.info(
                "%d of %d demonstrations of %s are regenerated: observed before each action.",
                *(regenerated, len(lengths), self.name),
            )
        self.lengths = np.array(lengths, np.int64)
        self.clips = np.arange(len(lengths))
        self.features = Features(20.0, tuple(_CAMERAS), state_size=8, action_size=7)

    def reopen(self) -> None:
        """See `Source.reopen`."""
        self._files = LRU(_OPEN_FILES, close=lambda file: file.close())

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_files"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.reopen()

    def _open(self, path: str) -> Any:
        try:
            import h5py
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("`libero:` needs h5py: pip install h5py.") from error
        return self._files.get(path, lambda: h5py.File(self.files_root.fetch(path), "r"))

    def _demo(self, clip: int) -> Any:
        path, demo = self._demos[clip]
        return _inside(self._open(path), "data", demo)

    def clip_name(self, clip: int) -> str:
        """`demo_3 of libero_goal/….hdf5`."""
        path, demo = self._demos[clip]
        return from_path(f"{demo} of {path}")

    def task(self, clip: int) -> str:
        """See `Source.task`."""
        return self._tasks[clip]

    def decode(
        self, clip: int, camera: str, indices: np.ndarray, size: int, resize: Resize
    ) -> np.ndarray:
        """See `Source.decode`."""
        first, last = int(indices[0]), int(indices[-1])
        stored = _numbers(_inside(self._demo(clip), "obs", _CAMERAS[camera]), 4)
        wanted = self.length(clip) + self._lag[clip]
        if stored.dtype != np.uint8 or stored.shape[3] != 3 or len(stored) != wanted:
            raise BadClipError(f"{camera} is no {wanted} pictures: {stored}")
        frames = stored[first : last + 1][indices - first]
        if self.orientation == "rotate180":
            frames = frames[:, ::-1, ::-1]
        return np.stack([decode_image(np.ascontiguousarray(f), size, resize) for f in frames])

    def low_dim(self, clip: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """State: position (3), axis-angle (3), two fingers (2); and the actions that follow it."""
        demo = self._demo(clip)
        keys, lag = ("ee_pos", "ee_ori", "gripper_states"), self._lag[clip]
        state = np.concatenate([_numbers(_inside(demo, "obs", k), 2)[:] for k in keys], axis=1)
        actions = _numbers(_inside(demo, "actions"), 2)[lag:]
        if len(state) != len(actions) + lag:
            raise BadClipError(f"{len(state)} states for {len(actions) + lag} actions")
        return state[: len(actions)].astype(np.float32), actions.astype(np.float32)


def _inside(group: Any, *names: str) -> Any:
    """What lies at a path of a file, and in the file: links to other files are not followed."""
    import h5py

    for name in names:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise BadClipError(f"{name} is a link, or not there")
        group = group[name]
    return group


def _numbers(data: Any, dimensions: int) -> Any:
    """A dataset of numbers that are in the file, and about as large as what is stored of it."""
    if getattr(data, "ndim", None) != dimensions or data.dtype.kind not in "fiu":
        raise BadClipError(f"no numbers of {dimensions} dimensions: {data}")
    if data.is_virtual or data.external:
        raise BadClipError(f"its numbers are in another file: {data}")
    stored = data.id.get_storage_size()
    chunk = int(np.prod(data.chunks or (1,))) * data.dtype.itemsize
    if max(data.nbytes, chunk) > min(_MOST_BYTES, _MOST_RATIO * stored):
        raise BadClipError(f"{data.nbytes} bytes declared, {stored} stored: {data}")
    return data


def instruction(path: str) -> str:
    """The sentence in the file's name: what LIBERO's benchmark, hence every evaluation, says.

    The sentence inside the file is another one for 29 of the 130 tasks ("Pick the akita black bowl
    …"): it is the one of the scene's definition.
    """
    stem = re.sub(r"^.*SCENE\d+_", "", Path(path).stem.removesuffix("_demo"))
    return stem.replace("_", " ").lower()


def suite_tasks(suite: str) -> frozenset[str]:
    """The instructions of a suite, to find it in a set that mixes suites.

    Raises:
        ValueError: If there is no such suite.
    """
    suites = json.loads(Path(__file__).with_name("libero_suites.json").read_text())
    if suite not in suites:
        raise ValueError(f"No LIBERO suite `{suite}`; there are {', '.join(suites)}.")
    return frozenset(suites[suite])
