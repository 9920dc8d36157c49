# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or not there, folders with one owner, errors that name the file."""

import os
import resource
import signal
import subprocess
import sys

import pytest

from lawm_hf.writing.atomic import (
    lock_folder,
    owns_folder,
    read_json,
    run_lock,
    unlock_folder,
    write_bytes_atomic,
    write_text_atomic,
)

HOLDER = """
import sys, time
from lawm_hf.writing.atomic import lock_folder
lock_folder(sys.argv[1])
print("locked", flush=True)
time.sleep(60)
"""


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    write_text_atomic(tmp_path / "a.json", "old")
    write_bytes_atomic(tmp_path / "a.json", "größer".encode())
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "größer"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]


def test_a_full_disk_leaves_the_old_content(tmp_path):
    write_text_atomic(tmp_path / "a.json", "old")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_text_atomic(tmp_path / "a.json", "new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "a.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe\x00", b"[" * 100_000, b"[1]"])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, content):
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"state\.json must hold JSON, a dict, got .*delete it"):
        read_json(tmp_path / "state.json", dict)


def test_a_sound_file_is_read(tmp_path):
    (tmp_path / "state.json").write_text('{"a": null}')
    assert read_json(tmp_path / "state.json") == {"a": None}
    (tmp_path / "state.json").write_text("null")
    assert read_json(tmp_path / "state.json") is None


def test_a_folder_has_one_owner_and_the_second_is_told_who_it_is(tmp_path):
    with run_lock(tmp_path):
        assert owns_folder(tmp_path)
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()} on"):
            lock_folder(tmp_path / "." / "")
    assert not owns_folder(tmp_path)
    lock_folder(tmp_path)
    unlock_folder(tmp_path)
    unlock_folder(tmp_path)  # Twice does no harm.


def test_a_lock_ends_with_its_process_even_when_it_is_killed(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(BlockingIOError, match=f"process {holder.pid} on"):
        lock_folder(tmp_path)
    holder.kill()
    holder.wait()
    with run_lock(tmp_path):
        assert owns_folder(tmp_path)
