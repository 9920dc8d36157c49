# SPDX-License-Identifier: Apache-2.0
"""LIBERO's own HDF5 files, `<suite>/<TASK>_demo.hdf5`, 20 Hz.

Two traps. Pictures and states were stored *after* the step, so `obs[t]` is the result of
`actions[t]` (LIBERO's create_dataset.py); the action that the policy should take at `obs[t]` is
`actions[t + 1]`, and the last picture has none. And the pictures are in OpenGL's orientation,
upside down; the LeRobot sets turned them by 180°, as must every evaluation of what was trained on
them. Gripper: -1 opens, +1 closes.
"""

import json
import logging
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..files import LocalFiles
from ..images import decode_image
from ..lru import LRU
from ..source import Features, Resize, Source

logger = logging.getLogger(__name__)

Orientation = Literal["rotate180", "stored"]
_CAMERAS = {"image": "agentview_rgb", "image2": "eye_in_hand_rgb"}  # names of `lerobot/libero`
_OPEN_FILES = 8


class LiberoSource(Source):
    """LIBERO's HDF5 demonstrations.

    Args:
        root: A folder with the suites, or of one suite.
        suite: Only files in a folder of that name, such as `libero_90`.
        orientation: `"rotate180"` as in all LeRobot sets of LIBERO, or `"stored"`.
    """

    def __init__(
        self, root: str | Path, suite: str | None = None, orientation: Orientation = "rotate180"
    ):
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
        lengths: list[int] = []
        for path in paths:
            try:
                data = self._open(path)["data"]
                demos = sorted(data, key=lambda name: int(name.rpartition("_")[2]))
                found = [(path, demo, len(data[demo]["actions"]) - 1) for demo in demos]
            except (OSError, KeyError, ValueError, RuntimeError) as error:  # h5py raises any
                logger.warning("Skipped all of %s: %s", path, error)
                continue
            self._demos += [row[:2] for row in found]
            self._tasks += [instruction(path)] * len(found)
            lengths += [row[2] for row in found]
        if not lengths:
            raise ValueError(f"None of the {len(paths)} files of {self.name} can be read.")
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
        return self._open(path)["data"][demo]

    def clip_name(self, clip: int) -> str:
        """`demo_3 of libero_goal/….hdf5`."""
        path, demo = self._demos[clip]
        return f"{demo} of {path}"

    def task(self, clip: int) -> str:
        """See `Source.task`."""
        return self._tasks[clip]

    def decode(
        self, clip: int, camera: str, indices: np.ndarray, size: int, resize: Resize
    ) -> np.ndarray:
        """See `Source.decode`."""
        first, last = int(indices[0]), int(indices[-1])
        frames = self._demo(clip)["obs"][_CAMERAS[camera]][first : last + 1][indices - first]
        if self.orientation == "rotate180":
            frames = frames[:, ::-1, ::-1]
        return np.stack([decode_image(np.ascontiguousarray(f), size, resize) for f in frames])

    def low_dim(self, clip: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """State: position (3), axis-angle (3), two fingers (2); and the actions that follow it."""
        demo = self._demo(clip)
        keys = ("ee_pos", "ee_ori", "gripper_states")
        state = np.concatenate([demo["obs"][k][:] for k in keys], axis=1)
        return state[:-1].astype(np.float32), demo["actions"][1:].astype(np.float32)


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
