# SPDX-License-Identifier: Apache-2.0
"""LeRobot datasets v2.0, v2.1 and v3.0, read as they are: no conversion, no lerobot.

Every path comes from the templates of `meta/info.json`, never from a guess: sets differ in them. In
v3.0 many episodes share one mp4; episode time starts at `from_timestamp` of the *file* (lerobot's
own streaming reader takes the global index, https://github.com/huggingface/lerobot/issues/4524).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...writing.atomic import read_json
from ...writing.text import get_logger
from ..files import LocalFiles
from ..images import decode_image
from ..lru import LRU
from ..source import BadClipError, Features, Resize, Source
from ..statistics import LARGEST, STATISTICS, check_statistics, warn_of_outliers
from ..text import printable
from ..video import Video
from .lerobot_info import Info, low_dim_keys, read_info
from .lerobot_rows import EpisodeRows, RowFiles, flat, is_steady, join, seconds
from .lerobot_table import read_episodes

logger = get_logger(__name__)

_CACHE_BYTES = 256 << 20  # of states and actions, per process
_OPEN_VIDEOS = 8
_OTHER_RATE = 0.002  # share by which a rate may be off
_TOLERANCE = 0.45  # frames that a picture may lie off its time
_GRIPPER_SLACK = 0.75  # around 0.5: sensors overshoot a little
# How a gripper of 0 to 1 becomes LIBERO's of -1 (open) to +1 (closed): offset and factor.
GRIPPERS = {"open_is_1": (1, -2), "closed_is_1": (-1, 2)}


class LeRobotSource(Source):
    """A LeRobot dataset.

    Args:
        files: Its folder, or its revision on the Hub.
        name: Spec.
        action: Feature with the action, or several joined by `+`. By default `action`,
            `actions`, or every `action.*` in the order of `info.json`. The
            `latent_action` of `lawm-hf label` is a chunk for each frame.
        state: The same for the robot's state, by default `observation.state`, `state` or every
            `observation.state.*`.
        gripper: What 1 means where the last number of an action is a gripper of 0 to 1:
            `open_is_1` or `closed_is_1`. It is read as LIBERO's: -1 open, +1 closed.
    """

    def __init__(
        self,
        files: LocalFiles,
        name: str,
        *,
        action: str | None = None,
        state: str | None = None,
        gripper: str | None = None,
    ):
        if gripper not in (None, *GRIPPERS):
            raise ValueError(f"`gripper` must be {' or '.join(GRIPPERS)}, got {gripper!r}.")
        self.store, self.name, self.gripper = files, name, gripper
        self.info: Info = read_info(files, name)
        stored = self.info.features
        self._actions = low_dim_keys(stored, action, ("action", "actions"))
        self._state = low_dim_keys(stored, state, ("observation.state", "state"))
        self.chunk_size = self.info.chunk_size(self._actions)
        self.features = Features(
            fps=self.info.fps,
            cameras=self.info.cameras(),
            state_size=self.info.size(self._state),
            action_size=self.info.size(self._actions) // (self.chunk_size or 1),
        )
        self._masks = {c: m for c in self.features.cameras if (m := self.info.mask_of(c))}
        self._is_told = False  # that rows and meta/ differ in an instruction
        self._num_rows: dict[str, Counter[str]] = {}  # of each video, by camera
        self.table = read_episodes(files, self.info, name)
        self.lengths = self.table.lengths
        self.clips = np.arange(len(self.lengths))
        columns = [*self._state, *self._actions, *self._masks.values()]
        self.rows = RowFiles(files, self.info, columns)
        if files.is_remote:
            main = self.features.cameras[:1]
            names = [self.table.videos[c][0] for c in main if self.info.is_video(c)]
            self.files = np.unique([*names, self.table.data_paths][0], return_inverse=True)[1]
        self.reopen()

    def reopen(self) -> None:
        """See `Source.reopen`."""
        self.rows.reopen()
        self._videos_open = LRU(_OPEN_VIDEOS, close=Video.close)
        self._episodes = LRU(_CACHE_BYTES, lambda episode: episode.nbytes)

    def __getstate__(self) -> dict[str, Any]:
        caches = ("_videos_open", "_episodes")
        return {k: v for k, v in self.__dict__.items() if k not in caches}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.reopen()

    def clip_name(self, clip: int) -> str:
        """`episode 17`."""
        return f"episode {self.table.ids[clip]}"

    def task(self, clip: int) -> str:
        """The instruction of the first frame: `meta` tells where there is but one."""
        if len(self.table.tasks[clip]) == 1:
            return self.table.tasks[clip][0]
        try:
            return next(iter(self._episode(clip).tasks or self.table.tasks[clip]), "")
        except Exception as error:  # the stream meets it again, and counts
            logger.warning("No instruction of %s: %s", self.clip_name(clip), error)
            return next(iter(self.table.tasks[clip]), "")

    def tasks(self, clip: int) -> tuple[str, ...]:
        """See `Source.tasks`."""
        return tuple(dict.fromkeys((self.task(clip), *self.table.tasks[clip])))

    def task_at(self, clip: int, frame: int) -> str:
        """The frame's own instruction, by its row's `task_index`."""
        tasks = self._episode(clip).tasks
        if tasks and not tasks[frame] and self.task(clip):
            raise BadClipError(f"frame {frame} has no instruction, others of the episode have")
        return tasks[frame] if tasks else self.task(clip)

    def times(self, clip: int) -> np.ndarray | None:
        """See `Source.times`: what the rows say, if it is not the rate of `info.json`."""
        rows = self._episode(clip)
        return None if rows.seconds is None or rows.is_steady else rows.seconds - rows.seconds[0]

    def cameras_of(self, clip: int) -> tuple[str, ...]:
        """Cameras that have a video, and are not padded anywhere in the episode."""
        absent = {c for c, (paths, *_) in self.table.videos.items() if not paths[clip]}
        if self._masks:
            absent |= self._episode(clip).padded
        return tuple(c for c in self.features.cameras if c not in absent)

    def decode(
        self, clip: int, camera: str, indices: np.ndarray, size: int, resize: Resize
    ) -> np.ndarray:
        """See `Source.decode`."""
        if not self.info.is_video(camera):
            episode = self._episode(clip)
            pictures = self.rows.pictures(episode.path, camera, episode.rows[indices])
            return np.stack([decode_image(picture, size, resize) for picture in pictures])
        paths, begins, ends = self.table.videos[camera]
        path, begin, end = paths[clip], float(begins[clip]), float(ends[clip])
        video = self._videos_open.get(path, lambda: Video(self.store.fetch(path)))
        rows = self._episode(clip)
        own = rows.seconds
        if own is not None and own[0] * self.info.fps >= 0.5:
            length = end - begin if self.info.version == "v3.0" else video.duration
            if own[-1] + 0.5 / self.info.fps >= length:
                own = None  # times of another clock, not of the video
        seconds = begin + (indices / self.info.fps if own is None else own[indices])
        if own is None or rows.is_steady:
            self._check_rate(video, camera, path)
        try:
            times = np.round(seconds / video.time_base).astype(np.int64)
            tolerance = int(_TOLERANCE / self.info.fps / video.time_base)
            return video.read(times, tolerance, size, resize)
        except Exception:
            self._videos_open.drop(path)  # its decoder may be in any state
            raise

    def _check_rate(self, video: Video, camera: str, path: str) -> None:
        """Refuse a video that has a picture for each row, at another rate: it was written wrongly.

        Of more pictures than rows those nearest in time are taken, so of such a video wrong ones.
        """
        if camera not in self._num_rows:
            self._num_rows[camera] = Counter()
            paths = self.table.videos[camera][0]
            for place, length in zip(paths, self.table.lengths.tolist(), strict=True):
                self._num_rows[camera][place] += length
        frames, seconds = video.stream.frames, video.duration
        allowed = max(2, _OTHER_RATE * frames)
        off = seconds and abs(seconds * self.info.fps - frames) > allowed
        if off and frames == self._num_rows[camera][path]:
            rate = frames / seconds
            raise BadClipError(
                f"{path} has one picture for each row, but {rate:g} per second, and info.json "
                f"states {self.info.fps:g}: correct that number, or write the video again"
            )

    def low_dim(self, clip: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """State and actions of the episode, aligned with its frames."""
        if not self._state and not self._actions:
            return None, None
        return self._episode(clip).state, self._episode(clip).actions

    # The rows of an episode --------------------------------------------------------------------

    def _episode(self, clip: int) -> EpisodeRows:
        return self._episodes.get(clip, lambda: self._read_episode(clip))

    def _read_episode(self, clip: int) -> EpisodeRows:
        length = int(self.table.lengths[clip])
        path, table, rows = self.rows.find(int(self.table.ids[clip]), self.table.data_paths[clip])
        if len(table) != length:
            raise BadClipError(f"{len(table)} rows of data for {length} frames, {path}")
        tasks, names = None, self.table.names
        if "task_index" in table.column_names and names:
            known = self.table.tasks[clip]
            usual = known[0] if known else ""
            numbers = flat(table, "task_index").tolist()  # where there is none, no instruction
            tasks = [names.get(int(i), usual) if i is not None and i == i else "" for i in numbers]
            if known and not set(known) & set(tasks) and not self._is_told:
                told = "The rows of %s say %r, meta/ says %r: the rows count, here and elsewhere."
                logger.warning(told, self.clip_name(clip), tasks[0], known[0])
                self._is_told = True
        masks = [(c, mask) for c, mask in self._masks.items() if mask in table.column_names]
        actions = join(table, self._actions)
        if actions is not None and self.chunk_size:
            actions = actions.reshape(len(actions), self.chunk_size, -1)
        if actions is not None and self.gripper is not None:
            offset, factor = GRIPPERS[self.gripper]
            if (np.abs(actions[..., -1] - 0.5) > _GRIPPER_SLACK).any():
                got = f"{actions[..., -1].min():g} to {actions[..., -1].max():g}"
                raise BadClipError(f"`gripper` is for one of 0 to 1, got {got}: leave it out")
            actions[..., -1] = offset + factor * actions[..., -1]
        times = seconds(table, self.info.fps)
        return EpisodeRows(
            path,
            rows,
            join(table, self._state),
            actions,
            tasks,
            times,
            times is None or is_steady(times, self.info.fps),
            {c for c, mask in masks if not flat(table, mask).all()},
        )

    def check_libero_gripper(self) -> None:
        """Refuse actions whose gripper is not LIBERO's -1 (open) to +1 (closed).

        Raises:
            ValueError: If the first episodes know no negative value; each begins with it open.
        """
        for clip in self.clips[:3].tolist():
            try:
                actions = self.low_dim(clip)[1]
            except BadClipError:
                continue
            if actions is not None and len(actions) and actions[:, -1].min() >= 0:
                raise ValueError(
                    "LIBERO's gripper is -1 (open) to +1 (closed), but the last number of the "
                    f"actions of {self.name} is never negative in {self.clip_name(clip)}. Say what "
                    "1 means: add `,gripper=open_is_1` (as in nvidia/LIBERO_LeRobot_v3) or "
                    "`,gripper=closed_is_1` to the spec."
                )

    def stats(self, max_clips: int = 5000) -> dict[str, dict[str, np.ndarray]]:
        """From `meta/stats.json` for the whole set, if it has all; else computed."""
        if self.gripper or self.chunk_size or len(self.clips) < len(self.table.lengths):
            return super().stats(max_clips)
        found = {}
        try:
            stored = read_json(self.store.fetch("meta/stats.json"), dict)
            for name, parts in (("state", self._state), ("actions", self._actions)):
                if parts:
                    found[name] = {s: self._stored(stored, s, parts) for s in STATISTICS}
                    check_statistics(found[name])
                    warn_of_outliers(f"{name} of {self.name}", found[name])
        except FileNotFoundError:
            return super().stats(max_clips)
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("Statistics of %s are computed: %s", self.name, printable(repr(error)))
            return super().stats(max_clips)
        return found

    def _stored(self, stored: dict[str, Any], name: str, keys: Sequence[str]) -> np.ndarray:
        """A statistic of features side by side, if it is one finite number for each of theirs."""
        parts = [np.asarray(stored[key][name], np.float32).reshape(-1) for key in keys]
        sizes = [self.info.size((key,)) for key in keys]
        values = np.concatenate(parts)
        if [len(part) for part in parts] != sizes or not (np.abs(values) < LARGEST).all():
            raise ValueError(f"meta/stats.json has no sound `{name}` of {', '.join(keys)}")
        return values
