# SPDX-License-Identifier: Apache-2.0
"""Files as an attacker writes them, by a seed: each attack changes one file of a sound set.

Outside of every set lies a secret: clips whose stamp is `SECRET`. A pickle or YAML that is obeyed
makes the file `canary` there.
"""

import io
import json
import os
import pickle
import struct
import tarfile
from functools import cache

import av
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from data_fixtures import build_libero, encode, stamped

SECRET = 99
ESCAPE = "\x1b]0;owned\x07\x1b[2J"
DEEP = "[" * 200_000
VALUES = [None, True, -1, 0, 2**63, 10**400, float("nan"), float("inf"), 1e308, "", ESCAPE, [], {}]
VALUES += [
    "../../secret",
    "/etc/passwd",
    "{0.__class__}",
    "{episode_index:999999999d}",
    "x" * 10**6,
]


def build_secret(folder):
    """What no set may show."""
    folder.mkdir()
    for suffix, codec, container in (
        (".mp4", "libx264", "mp4"),
        (".webm", "libvpx-vp9", "webm"),
    ):
        encode(stamped(SECRET, 16), str(folder / f"clip{suffix}"), 10, codec, container)
    build_libero(folder / "libero", 1)
    return folder


def pick(folder, rng, *suffixes, meta=None):
    """A file of these kinds; in `meta/`, elsewhere, or either."""
    found = sorted(
        p
        for p in folder.rglob("*")
        if p.is_file() and p.suffix in suffixes and meta in (None, "meta" in p.parts)
    )
    return found[int(rng.integers(len(found)))]


# JSON and text ---------------------------------------------------------------------------------


def deep_json(folder, rng, secret):
    path = pick(folder, rng, ".json", ".jsonl")
    path.write_text(DEEP if rng.random() < 0.5 else '{"a":' * 100_000)


def json_value(folder, rng, secret):
    """Some value of a JSON file is another one."""
    path = pick(folder, rng, ".json", ".jsonl")
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    number = int(rng.integers(len(lines)))
    root = [json.loads(lines[number])]
    place, key = root, 0
    while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
        place = place[key]
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = keys[int(rng.integers(len(keys)))]
    place[key] = VALUES[int(rng.integers(len(VALUES)))]
    lines[number] = json.dumps(root[0])
    path.write_text("\n".join(lines))


def template(folder, rng, secret):
    """`info.json` sends the reader elsewhere."""
    path = folder / "meta/info.json"
    info = json.loads(path.read_text())
    key = ("data_path", "video_path")[int(rng.integers(2))]
    choices = [f"{secret}/clip.mp4", "../../secret/clip.mp4", "{video_key.__class__}", "%s" * 9999]
    choices += ["meta/../../../secret/clip.mp4", "{episode_index:099999999d}", "a\0b", "meta"]
    info[key] = choices[int(rng.integers(len(choices)))]
    path.write_text(json.dumps(info))


def link(folder, rng, secret):
    path = pick(folder, rng, ".mp4", ".parquet", ".tar", ".jpg", ".pkl", ".hdf5", meta=False)
    path.unlink()
    inside = {".hdf5": next((secret / "libero").rglob("*.hdf5"))}
    goal = [inside.get(path.suffix, secret / "clip.mp4"), "/dev/zero", "/dev/stdin", path, "/"]
    path.symlink_to(goal[int(rng.integers(len(goal)))])


def pipe(folder, rng, secret):
    """Opening it would wait for ever."""
    kinds = (".mp4", ".webm", ".parquet", ".tar", ".jpg", ".pkl", ".hdf5", ".json")
    path = pick(folder, rng, *kinds)
    path.unlink()
    os.mkfifo(path)


def text_file(folder, rng, secret):
    path = pick(folder, rng, ".txt")
    texts = [ESCAPE.encode(), b"\xff\xfe\x00", b"", b"x" * (1 << 26), b"a\0b\n", "\u202e".encode()]
    path.write_bytes(texts[int(rng.integers(len(texts)))])


def captions(folder, rng, secret):
    name = next(folder.rglob("*.mp4")).name
    rows = [f"file_name,text\n{name},{ESCAPE}\n", "file_name,text\n../../secret/clip.mp4,go\n"]
    rows += [
        "file_name,text\n" + '"' * (1 << 20),
        f"text\n{name}\n",
        "\0\0\0",
        f"file_name,text\n{name}",
    ]
    path = next(folder.rglob("*.mp4")).with_name("metadata.csv")
    path.write_text(rows[int(rng.integers(len(rows)))])


# Parquet ---------------------------------------------------------------------------------------


def footer(folder, rng, secret):
    """Bytes of the metadata, or their declared length, are others."""
    path = pick(folder, rng, ".parquet")
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[-8:-4], "little")
    if rng.random() < 0.3:
        data[-8:-4] = int(rng.integers(2**32)).to_bytes(4, "little")
    else:
        for _ in range(int(rng.integers(1, 6))):
            data[len(data) - 8 - size + int(rng.integers(size))] = int(rng.integers(256))
    path.write_bytes(data)


def column(folder, rng, secret):
    """A column of another type or length, or with numbers that are none."""
    path = pick(folder, rng, ".parquet")
    table = pq.read_table(path)
    name = table.column_names[int(rng.integers(table.num_columns))]
    rows = len(table)
    columns = [["x"] * rows, [None] * rows, [float("nan")] * rows, [[]] * rows, [2**62] * rows]
    columns += [[-1] * rows, [[1.0, float("inf")]] * rows, [{"bytes": b"x", "path": ESCAPE}] * rows]
    columns += [[{"bytes": None, "path": "../../secret/clip.mp4"}] * rows, [[[1.0]]] * rows]
    chosen = columns[int(rng.integers(len(columns)))]
    pq.write_table(table.set_column(table.column_names.index(name), name, pa.array(chosen)), path)


def repeated(folder, rng, secret):
    """Millions of rows in a few kilobytes."""
    path = pick(folder, rng, ".parquet", meta=False)
    names = pq.read_schema(path).names
    rows = int(rng.choice([10**5, 10**6]))
    values = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int8), [0])
    with pq.ParquetWriter(path, pa.schema([(name, values.type) for name in names])) as writer:
        writer.write_table(pa.table([values] * len(names), names=names))


def picture(folder, rng, secret):
    """A picture of 65,000 pixels a side, by its header."""
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(
        ">I4sIIBBBBB", 13, b"IHDR", 65000, 65000, 8, 2, 0, 0, 0
    )
    jpg = b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, 65000, 65000, 3) + bytes(9)
    data = [png + bytes(64), jpg + b"\xff\xda" + bytes(64), b"GIF89a" + bytes(99), b"<svg/>"]
    data = data[int(rng.integers(len(data)))]
    if list(folder.rglob("*.jpg")):
        return pick(folder, rng, ".jpg").write_bytes(data)
    path = pick(folder, rng, ".parquet", meta=False)
    table = pq.read_table(path)
    name = next(n for n in table.column_names if "images" in n)
    cells = pa.array([{"bytes": data, "path": None}] * len(table))
    return pq.write_table(table.set_column(table.column_names.index(name), name, cells), path)


# Tar -------------------------------------------------------------------------------------------


def tar_field(folder, rng, secret):
    """A field of a header is another one, with a right checksum."""
    path = pick(folder, rng, ".tar")
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    at = members[int(rng.integers(len(members)))].offset
    sizes = [
        b"77777777777\0",
        b"00000000000\0",
        b"\x80" + b"\xff" * 11,
        b"\xff" * 12,
        b"-0000000001\0",
    ]
    if rng.random() < 0.7:
        data[at + 124 : at + 136] = sizes[int(rng.integers(len(sizes)))]
    else:
        data[at + 156] = int(rng.choice(list(b"0123456789KLSgxXNDMV\0")))
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = f"{sum(data[at : at + 512]):06o}\0 ".encode()
    path.write_bytes(data)


def tar_member(folder, rng, secret):
    """One more member: a path or a link that leaves, a device, a bomb of headers."""
    path = pick(folder, rng, ".tar")
    name = ["../../secret/x.mp4", "/etc/x.webm", f"{ESCAPE}.webm", "a" * 90 + ".mp4", "\udcff.mp4"]
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
    with tarfile.open(path, "a", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo(name[int(rng.integers(len(name)))])
        member.type, member.linkname = kinds[int(rng.integers(len(kinds)))], f"{secret}/clip.mp4"
        if rng.random() < 0.5:
            sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
            member.pax_headers = sparse | {"size": str(2**62), "GNU.sparse.realsize": str(2**60)}
        tar.addfile(member)
        label = tarfile.TarInfo("000.json")
        content = (DEEP, '{"label": [' + "1," * 99, json.dumps({"label": ESCAPE}))
        data = content[int(rng.integers(3))].encode()
        label.size = len(data)
        tar.addfile(label, io.BytesIO(data))


def index(folder, rng, secret):
    """An index that tells of other files and places."""
    shard = pick(folder, rng, ".tar").name
    rows = []
    for key in range(4):
        row = {"shard": shard, "key": str(key), "offset": 512, "size": 9000, "task": "go"}
        name = ("shard", "offset", "size", "key", "task", "tasks")[int(rng.integers(6))]
        rows.append(row | {name: VALUES[int(rng.integers(len(VALUES)))]})
    next(folder.rglob("*.tar")).with_name("index.jsonl").write_text(
        "\n".join(map(json.dumps, rows))
    )


# Video -----------------------------------------------------------------------------------------

_TABLES = (b"mvhd", b"tkhd", b"elst", b"mdhd", b"stsd", b"stts", b"stss", b"stsz", b"stco", b"stsc")


def boxes(folder, rng, secret):
    """Numbers in the tables of an mp4, or sizes of a WebM's elements, are others."""
    path = pick(folder, rng, ".mp4", ".webm")
    data = bytearray(path.read_bytes())
    at = data.find(_TABLES[int(rng.integers(len(_TABLES)))]) if path.suffix == ".mp4" else 0
    for _ in range(int(rng.integers(1, 4))):
        place = at - 4 + 4 * int(rng.integers(12)) if at else int(rng.integers(300))
        word = int(rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, int(rng.integers(2**32))]))
        if place >= 0:
            data[place : place + 4] = word.to_bytes(4, "big")
    path.write_bytes(data)


@cache
def _wide(side):
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        options = {"preset": "ultrafast", "threads": "1", "tune": "zerolatency"}
        stream = out.add_stream("libx264", rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = side, side // 2, "yuv420p"
        frame = av.VideoFrame(side, side // 2, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        for frame.pts in range(3):
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


def wide_video(folder, rng, secret):
    """Few bytes, many pixels; the container may tell of fewer."""
    side = int(rng.choice([4096, 12000]))
    data = _wide(side)
    if rng.random() < 0.5:
        data = data.replace(struct.pack(">HH", side, side // 2), struct.pack(">HH", 64, 64))
    pick(folder, rng, ".mp4", ".webm").write_bytes(data)


# Pickle ----------------------------------------------------------------------------------------


class _Obeyed:
    def __init__(self, secret):
        self.secret = secret

    def __reduce__(self):
        return os.system, (f"touch {self.secret}/canary",)


def pickled(folder, rng, secret):
    path = pick(folder, rng, ".pkl")
    laughs = b"\x80\x04]q\x00" + b"".join(b"]q%c(h%ch%ch%ce" % (i + 1, i, i, i) for i in range(40))
    forged = pickle.dumps(np.zeros(3)).replace(b"f8", b"O8")
    contents = [
        pickle.dumps({"full_state": _Obeyed(secret)}),
        pickle.dumps([_Obeyed(secret)]),
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40),
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.",
        b"\x80\x04" + b"]" * 300_000 + b"a" * 299_999 + b".",
        b"\x80\x02" + b"(" * 300_000 + b".",
        laughs + b".",
        forged,
        b"\x80\x04\x8a\xff" + b"\xff" * 255 + b".",
        b"c__builtin__\neval\n(S'__import__(\"os\").abort()'\ntR.",
        b"cnumpy\nzeros\n((I99999999999\ntI1\ntR.",
        pickle.dumps(list(range(12))),
        pickle.dumps({"full_state": np.full((13, 7), np.nan)}),
        b"\x80\x04K\x00h\xff.",
        b"Vx\\ud800\n.",
    ]
    path.write_bytes(contents[int(rng.integers(len(contents)))])


# HDF5 ------------------------------------------------------------------------------------------


def hdf5_member(folder, rng, secret):
    """Some member of a demonstration is a link, is elsewhere, or declares what is not there."""
    path = pick(folder, rng, ".hdf5")
    other = next((secret / "libero").rglob("*.hdf5"))
    with h5py.File(path, "a") as file:
        demo = file["data/demo_0"]
        names = ["actions", "obs/ee_pos", "obs/agentview_rgb", "obs"]
        name = names[int(rng.integers(len(names)))]
        shape, kind = getattr(demo[name], "shape", (12, 3)), getattr(demo[name], "dtype", "f8")
        del demo[name]
        if name == "obs":
            demo["obs"] = h5py.SoftLink("/data/demo_0") if rng.random() < 0.5 else np.zeros(3)
            return
        layout = h5py.VirtualLayout(shape, kind)
        layout[:] = h5py.VirtualSource(str(other), f"data/demo_0/{name}", shape)
        makers = [
            lambda: demo.__setitem__(name, h5py.ExternalLink(str(other), f"data/demo_0/{name}")),
            lambda: demo.__setitem__(name, h5py.SoftLink("/data")),
            lambda: demo.create_virtual_dataset(name, layout),
            lambda: demo.create_dataset(name, shape, kind, external=[(str(other), 0, 1 << 40)]),
            lambda: demo.create_dataset(name, (12, 1 << 40), kind, chunks=(1, 1 << 20)),
            lambda: demo.create_dataset(name, (1 << 30, 7), kind, chunks=(4096, 7)),
            lambda: demo.create_dataset(name, data=np.zeros((4000, 4000)), compression="gzip"),
            lambda: demo.create_dataset(name, (12,), h5py.string_dtype()),
            lambda: demo.create_dataset(name, (12, 7), h5py.vlen_dtype(float)),
            lambda: demo.create_dataset(name, (12, 7), h5py.ref_dtype),
            lambda: demo.create_dataset(name, (12, 7), [("a", "f8"), ("b", "f8")]),
            lambda: demo.create_dataset(name, data=np.full((12, 7), np.nan)),
            lambda: demo.create_group(name),
            lambda: demo.create_dataset(name, data=np.zeros((0, 7))),
        ]
        makers[int(rng.integers(len(makers)))]()


def hdf5_bytes(folder, rng, secret):
    """Bytes of the metadata are others; the library reads them in C."""
    path = pick(folder, rng, ".hdf5")
    data = bytearray(path.read_bytes())
    marks = [b"TREE", b"SNOD", b"HEAP", b"\x89HDF", b"GCOL", b"OHDR"]
    places = [i for mark in marks for i in _all(data, mark)]
    at = places[int(rng.integers(len(places)))]
    for _ in range(int(rng.integers(1, 8))):
        data[(at + int(rng.integers(120))) % len(data)] = int(rng.integers(256))
    path.write_bytes(data)


def _all(data, mark):
    at = data.find(mark)
    while at >= 0:
        yield at
        at = data.find(mark, at + 1)


_LEROBOT = (deep_json, json_value, template, link, pipe, footer, column, repeated)
ATTACKS = {
    "lerobot_v2.0": (*_LEROBOT, boxes, wide_video),
    "lerobot_v2.1": (*_LEROBOT, boxes, wide_video),
    "lerobot_v3.0": (*_LEROBOT, boxes, wide_video),
    "lerobot_images": (*_LEROBOT, picture),
    "ssv2": (deep_json, json_value, pipe, boxes, wide_video),
    "wds": (link, pipe, tar_field, tar_member, index),
    "folder": (pipe, captions, boxes, wide_video),
    "bridge": (link, pipe, text_file, picture, pickled, pickled),
    "libero": (link, pipe, hdf5_member, hdf5_member, hdf5_bytes),
}
