# SPDX-License-Identifier: Apache-2.0
"""Files that an attacker has written: refused, or skipped and named; nothing runs, leaves, or dies.

`LAWM_FUZZ=1000 pytest -n0 -m slow tests/test_data_hostile.py` for the figures in the documents.
"""

import gc
import json
import logging
import os
import resource
import shutil
import signal
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from data_fixtures import build_all, copy_set, read_stamp
from hostile_files import ATTACKS, SECRET, build_secret
from test_data_sources import FORMATS

from lawm_hf.data import WindowSpec, make_loader, open_source
from lawm_hf.data.bad_clips import BadClipError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits a process by /proc")

ROUNDS = -(-int(os.environ.get("LAWM_FUZZ", "180")) // len(FORMATS))
# What one file may take: seconds of the processor, of the clock (for who waits), bytes.
_SECONDS, _PATIENCE, _MEMORY = 30, 300, 1 << 30


def in_a_child(work):
    """What `work()` returns, in a process of its own with limits; a signal or limit by name."""
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        gc.freeze()  # freeing what another test left may wait for threads that are not here
        os.close(receive)
        result = {"unforeseen": "nothing was returned"}
        try:
            pages = Path("/proc/self/statm").read_text().split()[0]
            used = int(pages) * resource.getpagesize()
            limits = {"AS": used + _MEMORY, "CORE": 0, "CPU": _SECONDS}
            for name, value in limits.items():
                which = getattr(resource, f"RLIMIT_{name}")
                resource.setrlimit(which, (value, resource.getrlimit(which)[1]))
            signal.alarm(_PATIENCE)
            result = work()
        except MemoryError:
            result = {"memory": True}
        except BaseException as error:
            result = {"unforeseen": f"{type(error).__name__}: {error}"[:500]}
        finally:
            os.write(send, json.dumps(result).encode())
            os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as file:
        content = file.read()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return {"signal": signal.Signals(os.WTERMSIG(status)).name}
    return json.loads(content)


def look(spec):
    """Open a source and read an epoch of it: what came of it."""
    told = []

    class Listener(logging.Handler):
        def emit(self, record):
            told.append(record.getMessage())

    logging.getLogger().addHandler(Listener(logging.INFO))
    result = {"samples": 0, "leaks": 0, "unsound": 0}
    try:
        source = open_source(spec)
        window = WindowSpec(
            chunk_size=2,
            image_size=64,
            with_frames=True,
            with_actions=source.features.action_size > 0,
            views=source.features.cameras[:1],
        )
        loader = make_loader(
            source, window, 1, max_bad_share=1.0, cache_bytes=0, windows_per_visit=100
        )
        for batch in loader:
            if loader.epochs()[source.name] >= 1.0 or result["samples"] >= 40:
                break
            result["samples"] += 1
            numbers = [batch[k].numpy() for k in ("state", "actions") if k in batch]
            result["unsound"] += not all(np.isfinite(values).all() for values in numbers)
            stamps = [read_stamp(frame)[0] for frame in batch["frames"][0]]
            result["leaks"] += stamps == [SECRET] * len(stamps)
        result["bad"] = loader.num_bad()[source.name]
    except (OSError, ValueError, BadClipError) as error:
        result["refused"] = f"{type(error).__name__}: {error}"[:500]
    except RuntimeError as error:  # every clip of the set is bad
        if " are bad" not in str(error):
            raise
        result["bad"] = 1
    # Directions and joiners are controls, too.
    steering = [m for m in told if any(unicodedata.category(c)[0] == "C" for c in m if c != "\n")]
    return result | {"told": len(told), "steering": steering[:1]}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    return root, build_all(root)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rounds", [4, pytest.param(ROUNDS, marks=pytest.mark.slow)])
def test_hostile_files_are_refused_or_skipped_and_named(pristine, name, rounds, tmp_path):
    root, specs = pristine
    secret = build_secret(tmp_path / "secret")
    counts = {"refused": 0, "skipped": 0, "harmless": 0}
    wrong = []
    for number in range(rounds):
        rng = np.random.default_rng([number, FORMATS.index(name), rounds])
        copy = tmp_path / "set"
        folder, spec = copy_set(root, specs[name], copy)
        attack = ATTACKS[name][number % len(ATTACKS[name])]
        attack(folder, rng, secret)
        found = in_a_child(lambda spec=spec: look(spec))
        faults = {k: v for k, v in found.items() if k in FAULTS and v}
        if faults or (secret / "canary").exists():
            wrong.append((number, attack.__name__, faults))
        # Harmless is, for instance, a number that nobody reads.
        outcome = "skipped" if found.get("bad") or found.get("told") else "harmless"
        outcome = "refused" if "refused" in found else outcome
        counts[outcome] += 1
        shutil.rmtree(copy)
    print(name, counts, wrong)  # noqa: T201  (with `-rP`, for the documents)
    assert not wrong


FAULTS = ("signal", "memory", "unforeseen", "leaks", "unsound", "steering")
