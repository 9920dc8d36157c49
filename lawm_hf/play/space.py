# SPDX-License-Identifier: Apache-2.0
"""The page as a Space of the Hub: a folder to upload, with this package and the runs in it."""

import shutil
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import yaml

import lawm_hf

from ..hub.card import data_licences
from ..hub.card_file import run_files, saved_backbone
from ..hub.licences import hub_id, licence, shareable
from ..hub.push import PARTS
from .run import WANTED, Run, default_source

_README = """---
title: {title}
emoji: 🦾
colorFrom: indigo
colorTo: blue
sdk: gradio
sdk_version: {gradio}
python_version: "3.12"
app_file: app.py
license: apache-2.0
short_description: Imagine futures from latent actions, and drive a tabletop
---

Latent actions learned from video without action labels: see what the world model imagines under
them, move along their main directions, and let the finetuned policy play. Made by
`lawm-hf play --space`; the free CPU hardware is enough, and no token is needed.
"""
_APP = '''"""The page of `lawm-hf play`, as a Space."""

from pathlib import Path

from lawm_hf.play.page import serve

HERE = Path(__file__).parent
serve({pair}, {policy}, {source!r}, host=None, port=None)
'''
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc")
_EXTRAS = ("sim", "play")


def write_space(
    folder: Path, pair: Run, policy: Run, source: str = "", title: str = "LAWM: play"
) -> Path:
    """Write `README.md`, `requirements.txt` and `app.py`, this package, and the runs shown.

    Args:
        folder: To be created, or empty.
        pair: The run that imagines.
        policy: The run that drives.
        source: Of the clips, if not the run's own.
        title: Of the Space.

    Raises:
        ValueError: If something is in the folder, or the clips lie on this machine alone or must
            not be shown.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(
            f"`space` must be a new or empty folder, got {str(folder)!r} with files in it. Name "
            "another, or empty it."
        )
    _check_clips(source or default_source(pair))
    package = Path(lawm_hf.__file__).parent
    shutil.copytree(package, folder / "lawm_hf", ignore=_IGNORED)
    places = {}
    for name, run in (("pair", pair), ("policy", policy)):
        places[name] = "''"  # that which comes with the package
        if not run.folder.resolve().is_relative_to(package.resolve()):
            _copy(run, folder / "runs" / name)
            places[name] = f"str(HERE / 'runs' / '{name}')"
    lines = needed()
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in lines))
    gradio = next(line for line in lines if line.startswith("gradio"))
    version = gradio.partition(">=")[2].partition(",")[0]
    (folder / "README.md").write_text(_README.format(title=title, gradio=version))
    (folder / "app.py").write_text(_APP.format(**places, source=source))
    return folder


def _check_clips(spec: str) -> None:
    if not spec.startswith("tabletop") and not hub_id(spec):
        raise ValueError(
            f"The clips of a Space come from the tabletop or the Hub, got {spec!r}. Name such: "
            "--source tabletop:reach, or --source lerobot:USER/NAME."
        )
    if not licence(spec).allows_public_weights:  # the strictest: then frames all the more
        raise ValueError(
            f"The clips of a Space are seen by everybody, which the licence of {spec!r} forbids. "
            "Name others: --source tabletop:reach."
        )


def _copy(run: Run, folder: Path) -> None:
    """Models and reports, without folders of this machine; pictures where licences allow them."""
    arguments, record = run_files(run.folder)
    licences = data_licences(arguments, record, saved_backbone(run.folder))
    shows = all(found.allows_frames for found in licences.values())
    for part in PARTS:
        for path in (path for kind in WANTED for path in (run.folder / part).glob(kind)):
            if shows or path.suffix != ".png":
                target = folder / part / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
    told = yaml.safe_dump({name: _shared(value) for name, value in arguments.items()})
    (folder / "args.yaml").write_text(told)


def _shared(value: Any) -> Any:
    if isinstance(value, list):
        return [_shared(item) for item in value]
    return shareable(value) if isinstance(value, str) else value


def needed() -> list[str]:
    """What the package and its page need, as `requirements.txt` has it.

    Raises:
        ValueError: If the package was installed before its page was part of it.
    """
    lines = []
    for line in requires("lawm_hf") or []:
        what, _, condition = (part.strip() for part in line.partition(";"))
        is_wanted = not condition or any(f'"{e}"' in condition.replace("'", '"') for e in _EXTRAS)
        if is_wanted and not what.startswith(("lawm_hf", "lawm-hf")):
            lines.append(what)
    if not any(line.startswith("gradio") for line in lines):
        raise ValueError(
            "What a Space needs stands in the metadata of the installed package, got one without "
            "Gradio: it is older than this code. Install it again: uv pip install -e '.[play]'."
        )
    return sorted(set(lines))
