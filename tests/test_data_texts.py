# SPDX-License-Identifier: Apache-2.0
"""Instructions and lists of files, in the forms in which people keep them."""

import json
import tarfile

import numpy as np
import pytest
from data_fixtures import build_lerobot, build_ssv2, encode, read_stamp, stamped
from test_data_strangers import tar_of, video

from lawm_hf.data import open_source
from lawm_hf.data.formats.shards import index_shard

# Captions of a folder ---------------------------------------------------------------------------


def tasks(source):
    return [source.task(int(clip)) for clip in source.clips]


@pytest.mark.parametrize(
    ("name", "content", "want"),
    [
        ("metadata.csv", "file_name, text\nkit\\a.mp4, go\n", "go"),
        ("metadata.csv", 'file_name,text\nkit/a.mp4, "go, then ""stop"""\n', 'go, then "stop"'),
        ("metadata.csv", "file_name,text\n{root}/kit/a.mp4,go\n", "go"),
        ("labels.tsv", "\ufefffile_name\ttext\nkit/a.mp4\tgo, then stop\n", "go, then stop"),
        ("labels.json", '[{"file_name": "kit/a.mp4", "text": ["go", "walk"]}]', "go"),
        (
            "metadata.jsonl",
            '{"file_name": "kit/a.mp4", "text": "go\u2028\x85on"}\n',
            "go\u2028\x85on",
        ),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_captions_are_read_in_each_usual_form(tmp_path, name, content, want, encoding):
    (tmp_path / "kit").mkdir()
    encode(stamped(0, 8), str(tmp_path / "kit/a.mp4"), 10)
    path = tmp_path / name
    path.write_bytes(content.replace("{root}", str(tmp_path)).lstrip("\ufeff").encode(encoding))
    options = "" if name.startswith("metadata") else f",captions={name}"
    assert tasks(open_source(f"folder:{tmp_path}{options}")) == [want]
    if options:
        assert tasks(open_source(f"folder:{tmp_path},captions={path}")) == [want]


@pytest.mark.parametrize("value", [3, None, {"en": "go"}, float("nan"), [], [1]])
def test_what_is_no_text_becomes_no_instruction(tmp_path, value):
    for name in "ab":
        encode(stamped(0, 8), str(tmp_path / f"{name}.mp4"), 10)
    rows = [{"file_name": "a.mp4", "text": value}, {"file_name": "b.mp4", "text": "go"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert tasks(open_source(f"folder:{tmp_path}")) == ["go"]
    label = json.dumps({"label": value}).encode()
    tar_of(
        tmp_path / "0.tar", {"a.json": label, "a.mp4": video(0), "b.txt": b"go", "b.mp4": video(1)}
    )
    assert tasks(open_source(f"wds:{tmp_path}/*.tar")) == ["go"]


def test_quotes_that_do_not_end_swallow_no_captions(tmp_path):
    encode(stamped(0, 8), str(tmp_path / "a.mp4"), 10)
    (tmp_path / "metadata.csv").write_text('file_name,text\na.mp4,"go\nb.mp4,stop\n')
    with pytest.raises(ValueError, match='in "quotes", got unexpected end of data'):
        open_source(f"folder:{tmp_path}")


@pytest.mark.parametrize("name", ["labels.csv", "Metadata.csv", "metadata.parquet", "a.txt"])
def test_a_file_that_looks_like_captions_and_is_none_is_named(tmp_path, name, caplog):
    encode(stamped(0, 8), str(tmp_path / "clip_a.mp4"), 10)
    (tmp_path / name).write_text("file_name,text\nclip_a.mp4,go\n")
    assert tasks(open_source(f"folder:{tmp_path}")) == ["clip a"]
    assert f"{name} is not read" in caplog.text
    assert "`metadata.csv`" in caplog.text


@pytest.mark.parametrize("scheme", ["folder", "wds", "libero", "bridge"])
def test_a_folder_that_is_a_link_is_named(tmp_path, scheme, caplog):
    (tmp_path / "away").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "in/part").symlink_to(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        open_source(f"{scheme}:{tmp_path / 'in'}{'/*.tar' if scheme == 'wds' else ''}")
    assert f"in/part is a link to a folder, which is not followed: {tmp_path}/away" in caplog.text


def test_what_lies_in_hidden_folders_is_no_clip_and_no_caption(tmp_path):
    for folder in (".Trash-1000", ".cache"):
        (tmp_path / folder).mkdir()
    (tmp_path / ".cache/metadata.csv").write_text("file_name,text\nx.mp4,go\n")
    for name in ("pull it.mp4", ".Trash-1000/push it.mp4"):
        encode(stamped(0, 8), str(tmp_path / name), 10)
    assert tasks(open_source(f"folder:{tmp_path}")) == ["pull it"]


@pytest.mark.parametrize("suffix", [".mpg", ".ts", ".flv", ".3gp"])
def test_videos_of_older_kinds_are_not_left_out(tmp_path, suffix):
    kinds = {".mpg": "mpegts", ".ts": "mpegts", ".flv": "flv", ".3gp": "mp4"}
    encode(stamped(1, 14), str(tmp_path / f"go{suffix}"), 10, container=kinds[suffix])
    source = open_source(f"folder:{tmp_path}")
    frames = source.decode(0, "video", np.arange(14), 64, "squash")
    assert [read_stamp(frame) for frame in frames] == [(1, t) for t in range(14)]


def test_a_path_may_hold_commas_and_signs(tmp_path):
    root = tmp_path / "données, 100% [neu] (v2)=x, and"
    root.mkdir()
    encode(stamped(0, 8), str(root / "go.mp4"), 10)
    assert tasks(open_source(f"folder:{root},episodes=0:1")) == ["go"]


def test_ssv2_takes_the_first_of_several_labels_and_answers_in_quotes(tmp_path):
    root = build_ssv2(tmp_path / "set", 3)
    path = root / "labels/train.json"
    rows = json.loads(path.read_text())
    rows[0]["label"] = ["lift it", "raise it"]
    path.write_text(json.dumps(rows))
    assert open_source(f"ssv2:{root}").task(0) == "lift it"
    (root / "labels/test.json").write_text(json.dumps([{"id": row["id"]} for row in rows]))
    answers = '\ufeff700;Moving it\r\n701;"Putting a; b"\r\n702;"up" to down\r\n'
    (root / "labels/test-answers.csv").write_text(answers, "utf-8")
    found = tasks(open_source(f"ssv2:{root},split=test"))
    assert found == ["Moving it", "Putting a; b", '"up" to down']


# Shards -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        {"a.txt": "\ufeffgo".encode()},
        {"a.json": '\ufeff{"label": "go"}'.encode()},
        {"a.txt": b"go", "a.json": b'{"fps": 10}'},
        {"a.json": b'{"label": 3, "text": ["go", "walk"]}'},
        {"a.json": b'"go"'},
    ],
)
def test_a_label_of_a_shard_is_read_in_each_usual_form(tmp_path, labels):
    tar_of(tmp_path / "train-0.tar", {**labels, "a.mp4": video(0), "._a.mp4": b"\0" * 99})
    source = open_source(f"wds:{tmp_path}/train-*.tar")
    assert tasks(source) == ["go"]
    assert tasks(open_source(f"wds:{tmp_path}")) == ["go"]


def indexed(root, shards):
    rows = [row for shard in shards for row in index_shard(root / shard, shard)]
    (root / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_shard_that_the_index_does_not_know_is_looked_through(tmp_path):
    for i in range(3):
        tar_of(tmp_path / f"train-{i}.tar", {f"{i}.txt": b"go", f"{i}.mp4": video(i)})
    indexed(tmp_path, ["train-0.tar", "train-2.tar"])
    source = open_source(f"wds:{tmp_path}/train-*.tar")
    assert [source.clip_name(c)[0] for c in source.clips.tolist()] == ["0", "1", "2"]


def test_an_index_of_other_shards_is_refused_and_gives_no_clip_anothers_label(tmp_path):
    members = [{f"{i}.txt": b"go %d" % i, f"{i}.mp4": video(i)} for i in range(3)]
    tar_of(tmp_path / "train-0.tar", members[0] | members[1] | members[2])
    indexed(tmp_path, ["train-0.tar"])
    tar_of(tmp_path / "train-0.tar", members[2] | members[1] | members[0])
    source = open_source(f"wds:{tmp_path}/train-*.tar")
    with pytest.raises(Exception, match=r"index\.jsonl is of other shards than train-0\.tar"):
        source.length(0)
    assert source.length(1) == 8


@pytest.mark.parametrize(
    ("name", "pattern", "message"),
    [
        ("train-0.tar.gz", "train-*.tar", r"without compression, got train-0\.tar\.gz"),
        ("train-0.tgz", "train-*", "without compression"),
        ("train-0.tar", "train-{0..3}.tar", r"there are train-0\.tar.*not known here"),
        ("deep/train-0.tar", "train-*.tar", r"there are deep/train-0\.tar"),
    ],
)
def test_shards_that_are_not_found_say_what_there_is(tmp_path, name, pattern, message):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w:gz" if name.endswith("gz") else "w"):
        pass
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_source(f"wds:{tmp_path}/{pattern}")


def test_a_partial_shard_of_an_interrupted_conversion_is_no_shard(tmp_path):
    (tmp_path / ".parts").mkdir()
    tar_of(tmp_path / "train-0.tar", {"a.txt": b"go", "a.mp4": video(0)})
    tar_of(tmp_path / ".parts/00001.tar", {"b.txt": b"stop", "b.mp4": video(1)})
    for spec in (f"wds:{tmp_path}", f"wds:{tmp_path}/*.tar"):
        assert tasks(open_source(spec)) == ["go"]


def test_a_lerobot_set_is_no_folder_of_clips(tmp_path):
    root = build_lerobot(tmp_path / "set", "v3.0", num_episodes=2)
    with pytest.raises(ValueError, match=r"is a LeRobot set.*Did you mean `lerobot:"):
        open_source(f"folder:{root}")


def test_a_shard_may_have_brackets_in_its_name(tmp_path):
    tar_of(tmp_path / "train[0].tar", {"a.txt": b"go", "a.mp4": video(0)})
    assert tasks(open_source(f"wds:{tmp_path}/train[0].tar")) == ["go"]


def test_shards_without_a_video_say_so(tmp_path):
    tar_of(tmp_path / "train-0.tar", {"a.txt": b"go", "a.jpg": b"x"})
    with pytest.raises(ValueError, match="Shards must hold videos"):
        open_source(f"wds:{tmp_path}/train-*.tar")
