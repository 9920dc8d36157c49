# SPDX-License-Identifier: Apache-2.0
"""Our metrics as modules of the `evaluate` library: `success_rate` and `latent_cca`.

Each folder is a Space of the Hub as it stands: the script, the arithmetic beside it (`evaluate`
fetches what a script imports with `from .x`), card, widget. They import nothing else of ours, so
whoever has `evaluate` can use them; our own code imports the arithmetic alone.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from .success_rate.wilson import success_rates, wilson_interval

if TYPE_CHECKING:
    from evaluate import EvaluationModule

__all__ = ["load", "success_rates", "wilson_interval"]

_FOLDER = Path(__file__).parent


def load(name: str) -> "EvaluationModule":
    """The metric `"success_rate"` or `"latent_cca"`; needs no network.

    Raises:
        ValueError: If there is no such metric.
    """
    import evaluate  # Seconds to import, and ours does without.

    known = sorted(path.stem for path in _FOLDER.glob("*/*.py") if path.stem == path.parent.name)
    if name not in known:
        raise ValueError(f"`name` must be one of {', '.join(known)}, got {name!r}.")
    return evaluate.load(str(_FOLDER / name), keep_in_memory=True)
