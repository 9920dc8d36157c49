# SPDX-License-Identifier: Apache-2.0
"""Windows of video and demonstrations from any of our sources, mixed and exactly resumable.

    window = WindowSpec(chunk_size=10, image_size=64, with_frames=True)     # pretraining
    loader = make_loader("tabletop:reach", window, batch_size=48, seed=0, rank=0, world_size=1)
    for batch in loader:                                                     # never ends
        ...
        state = loader.state_dict()         # JSON-able; right with workers and prefetching
    loader.load_state_dict(state)           # the next `for` continues with the very next batch

    data = load("lerobot:DIR", WindowSpec(chunk_size=10, with_actions=True))  # map style: data[i]
    data.source.stats(), data.source.features

A batch holds what is stored, unnormalised; the processor turns it into model inputs
(`B` batch, `N` chunk steps, `V` views, `S` side of the image, `P` state, `A` action):

| key             | shape           | dtype   | when                                               |
|-----------------|-----------------|---------|----------------------------------------------------|
| `frames`        | (B,N+1,3,S,S)   | uint8   | `with_frames`: x_t … x_{t+N} of the main camera    |
|                 | (B,N+1,V,3,S,S) |         | with `frame_views` > 1: of several                 |
| `frame_is_pad`  | (B,N+1)         | bool    | `with_frames`: the clip ended; the last repeats   |
| `frame_states`  | (B,N+1,P)       | float32 | `with_frame_states`: the state beside each frame   |
| `images`        | (B,V,3,S,S)     | uint8   | always: the views at time t, main camera first     |
| `view_mask`     | (B,V)           | bool    | always: False where an episode lacks that camera   |
| `task`          | list of B str   |         | always                                             |
| `state`         | (B,P)           | float32 | every source has one, of one size                  |
| `actions`       | (B,N,A)         | float32 | `with_actions`                                     |
| `action_is_pad` | (B,N)           | bool    | `with_actions`                                     |
| `index`         | (B,3)           | int64   | always: source, episode, frame                     |

Sources are named by one string, `scheme:location[,key=value...]`, the same in recipes, YAML and on
the command line: see `lawm_hf.data.spec`.
"""

from .dataset import WindowDataset
from .loader import WindowLoader, make_loader
from .reader import collate
from .source import Features, Source
from .spec import load, open_source, register_scheme
from .window import WindowSpec

__all__ = [
    "Features",
    "Source",
    "WindowDataset",
    "WindowLoader",
    "WindowSpec",
    "collate",
    "load",
    "make_loader",
    "open_source",
    "register_scheme",
]
