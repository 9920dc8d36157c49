# SPDX-License-Identifier: Apache-2.0
"""BridgeData V2 as released: JPEGs and pickles (https://rail.eecs.berkeley.edu/datasets).

`…/<date>/raw/traj_group<g>/traj<i>/{images0/im_<t>.jpg, obs_dict.pkl, policy_out.pkl, lang.txt}`,
T + 1 pictures and states for T actions, 5 Hz. An action is the difference of position (m) and of
roll, pitch, yaw (rad), and the commanded gripper, 1 open and 0 closed.
"""

import os
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..files import LocalFiles, warn_of_links
from ..images import decode_image
from ..lru import LRU
from ..pickles import Call
from ..pickles import load_pickle as load_pickle
from ..source import BadClipError, Features, Resize, Source
from ..text import decoded, from_path

# Until then the camera lagged one step behind (bridgedata_raw_to_numpy.py of the authors).
_LATENCY_UNTIL = "2021-07-23"
_SIZE = 7
_PICTURE = re.compile(r"im_\d+\.(?:jpe?g|png)", re.IGNORECASE)


class BridgeSource(Source):
    """Raw BridgeData V2.

    Args:
        root: A folder above the trajectories, at any height.
        frame_order: `"numeric"`; `"lexicographic"` reads im_0, im_1, im_10, … as LAWM's release
            did, to reproduce its numbers only.
        actions: Whether to read states and actions, which come as pickles.
    """

    def __init__(
        self,
        root: str | Path,
        frame_order: Literal["numeric", "lexicographic"] = "numeric",
        actions: bool = True,
    ):
        if frame_order not in ("numeric", "lexicographic"):
            raise ValueError(f"`frame_order` is numeric or lexicographic, got {frame_order!r}.")
        self.root, self.frame_order = LocalFiles(root).root, frame_order
        self.name = f"bridge:{root}"
        self.trajectories = _find_trajectories(self.root.absolute())
        if not self.trajectories:
            raise FileNotFoundError(f"No …/traj_group*/traj*/images0 below {self.root}.")
        self.clips = np.arange(len(self.trajectories))
        cameras = tuple(f"images{i}" for i in range(5))
        size = _SIZE if actions else 0
        self.features = Features(fps=5.0, cameras=cameras, state_size=size, action_size=size)
        self.reopen()

    def reopen(self) -> None:
        """See `Source.reopen`."""
        self._lists, self._low_dim = LRU(4096), LRU(4096)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lists", "_low_dim")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.reopen()

    def clip_name(self, clip: int) -> str:
        """Its path in the folder."""
        return from_path(self.trajectories[clip])

    def task(self, clip: int) -> str:
        """First line of `lang.txt` that says something; often there is none."""
        path = self.root / self.trajectories[clip] / "lang.txt"
        content = path.read_bytes() if path.is_file() else b""
        try:
            text = decoded(content)
        except UnicodeDecodeError:
            text = content.decode("latin-1")  # of an old system
        lines = [line.strip() for line in text.splitlines()]
        return next((x for x in lines if x and not x.lower().startswith("confidence")), "")

    def _pictures(self, clip: int, camera: str) -> list[Path]:
        """The pictures in order, less the last (which no action follows)."""

        def read() -> list[Path]:
            folder = self.root / self.trajectories[clip] / camera
            if not folder.is_dir():
                return []
            found = [p for p in folder.iterdir() if _PICTURE.fullmatch(p.name)]
            found.sort(key=lambda path: int(path.stem.removeprefix("im_")))
            numbers = [int(path.stem.removeprefix("im_")) for path in found]
            if not numbers or numbers != list(range(len(numbers))):
                missing = min(set(range(len(numbers) + 1)) - set(numbers))
                raise BadClipError(f"{camera} lacks picture im_{missing}.jpg, or has one twice")
            if self.frame_order == "lexicographic":
                found.sort(key=lambda path: path.name)
            return found[self._latency(clip) : -1]

        return self._lists.get((clip, camera), read)

    def _latency(self, clip: int) -> int:
        """Pictures to drop at the beginning."""
        # …/<date>/raw/traj_group0/traj3, of which the root may be any part
        date = (self.root.resolve() / self.trajectories[clip]).parts[-4:][0]
        return int(date[:10] < _LATENCY_UNTIL and date[:2] == "20")

    def cameras_of(self, clip: int) -> tuple[str, ...]:
        """Cameras whose folder exists: it varies."""
        folder = self.root / self.trajectories[clip]
        return tuple(c for c in self.features.cameras if (folder / c).is_dir())

    def length(self, clip: int) -> int:
        """Pictures of the main camera that an action follows."""
        return len(self._pictures(clip, self.features.cameras[0]))

    def decode(
        self, clip: int, camera: str, indices: np.ndarray, size: int, resize: Resize
    ) -> np.ndarray:
        """See `Source.decode`."""
        pictures = self._pictures(clip, camera)
        if len(pictures) != self.length(clip):
            main = self.features.cameras[0]
            told = f"{camera} has {len(pictures)} pictures for {self.length(clip)} of {main}"
            raise BadClipError(told)
        return np.stack([decode_image(pictures[i], size, resize) for i in indices])

    def low_dim(self, clip: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """`full_state` and the actions, aligned with the pictures."""
        if not self.features.action_size:
            return None, None
        return self._low_dim.get(clip, lambda: self._read_low_dim(clip))

    def _read_low_dim(self, clip: int) -> tuple[np.ndarray, np.ndarray]:
        folder, latency = self.root / self.trajectories[clip], self._latency(clip)
        observed = load_pickle(folder / "obs_dict.pkl")
        # A list of dictionaries; in older data, of arrays.
        steps = load_pickle(folder / "policy_out.pkl")
        try:
            state = _rows(observed["full_state"])
            actions = _rows([step["actions"] if isinstance(step, dict) else step for step in steps])
        except (KeyError, TypeError, ValueError) as error:
            told = "obs_dict.pkl must hold `full_state` and policy_out.pkl steps with `actions`"
            raise BadClipError(f"{told}, of {_SIZE} numbers each: {error!r}") from error
        if len(state) != len(actions) + 1:
            raise BadClipError(f"{len(state)} states for {len(actions)} actions")
        state, actions = state[latency:-1], actions[: len(actions) - latency]
        if len(actions) != self.length(clip):
            raise BadClipError(f"{self.length(clip)} pictures for {len(actions)} actions")
        return state, actions


def _find_trajectories(root: Path) -> list[str]:
    """Folders `traj_group*/traj*`, sorted; their many pictures are not looked at."""
    found = []
    for folder, names, _ in os.walk(root):
        warn_of_links(folder, names)
        if "lmdb" in folder:
            names.clear()
        elif os.path.basename(folder).startswith("traj_group"):  # noqa: PTH119
            here = Path(folder).relative_to(root)
            found += [(here / n).as_posix() for n in names if n.startswith("traj")]
            names.clear()
    return sorted(found)


def _rows(value: Any) -> np.ndarray:
    """An array, or a list of rows, as `(T, 7)` float32."""
    if isinstance(value, list):
        # Each row by itself: lists of lists can name one another to any size.
        value = [row if isinstance(row, Call) else list(map(float, row)) for row in value]
        value = [np.asarray(row, np.float32).reshape(_SIZE) for row in value]
    return np.asarray(value, np.float32).reshape(len(value), _SIZE)
