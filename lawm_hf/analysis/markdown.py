# SPDX-License-Identifier: Apache-2.0
"""A study in plain words: `report.md`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from .composition import Composition
from .correlation import MIN_FIT_CLIPS, MIN_HELD_OUT_CLIPS
from .retrieval import Retrieval
from .study import LatentStudy

# Table III of the paper: LAWM, villa-X.
_PAPER = {
    "put": (0.9154, 0.7863),
    "move": (0.9599, 0.9174),
    "remove": (0.9098, 0.9955),
    "take": (0.9541, 0.9270),
}


def study_markdown(study: LatentStudy, heading: str, pictures: dict[str, Path]) -> str:
    """The report.

    Args:
        study: What was measured.
        heading: Which model and clips, in a sentence or two.
        pictures: Caption and file of each picture; links are to the file's name.
    """
    alarms = study.health.alarms()
    parts = ["# What the latent actions have learned", heading]
    parts.append("\n".join(f"- **ALARM** {a}" for a in alarms) if alarms else "No alarms.")
    parts += ["## Health", f"```text\n{study.health}\n```", *_verbs(study), *_probes(study)]
    if study.composition is not None:
        parts += _composition(study.composition)
    else:
        parts += [
            "## Do latents add up?",
            "Not measured: this needs clips of one view that last for a whole chunk.",
        ]
    parts += _retrieval(study.retrieval)
    for caption, path in pictures.items():
        parts.append(f"## {caption}\n\n![{caption}]({path.name})")
    return "\n\n".join(parts) + "\n"


def _verbs(study: LatentStudy) -> list[str]:
    if not study.verbs:
        return ["## Correlation with true actions", "Not measured: the clips have no actions."]
    rows = []
    for row in study.verbs:
        paper = _PAPER.get(row.verb)
        rows.append(
            (
                row.verb,
                f"{row.num_fit} / {row.num_held_out}",
                _numbers(row.held_out),
                f"{row.permuted_mean[0]:.2f} ({row.permuted_p95[0]:.2f})",
                _numbers(row.untrained[:3]),
                f"{row.in_sample:.2f} ({row.in_sample_untrained:.2f})",
                " / ".join(f"{number:.2f}" for number in paper) if paper else "",
            )
        )
    titles = (
        *("verb", "clips to fit / held out", "held-out CCA, all coefficients"),
        *("permuted clips, first: mean (95 %)", "untrained policy"),
        *("in-sample first (untrained)", "paper / villa-X"),
    )
    paper = "; ".join(f"{verb} {ours:.4f} ({villa:.4f})" for verb, (ours, villa) in _PAPER.items())
    notes = [
        "Canonical correlations of single latents and single true actions. The held-out columns "
        "are fitted on other clips and leave out what all clips share at a step. For comparison "
        f"the paper's Table III, first coefficients of LAWM (villa-X): {paper}; apparently "
        "in-sample, on other data, and without a floor. The in-sample column shows how that way "
        "of counting flatters: read it beside that of a policy that has learned nothing, in "
        "brackets."
    ]
    if study.verbs_left_out:
        left = ", ".join(f"{v} ({n} / {m})" for v, (n, m) in study.verbs_left_out.items())
        notes.append(
            f"Left out, with fewer than {MIN_FIT_CLIPS} clips to fit on or {MIN_HELD_OUT_CLIPS} "
            f"held out: {left}."
        )
    return ["## Correlation with true actions", _table(titles, rows), *notes]


def _probes(study: LatentStudy) -> list[str]:
    if not study.action_probes:
        return []
    rows = [
        (f"{name}, {case}", *(f"{value:.2f}" for value in values))
        for name, cases in study.action_probes.items()
        for case, values in cases.items()
    ]
    titles = ("R²", *(f"action {d + 1}" for d in range(len(rows[0]) - 1)))
    return [
        "## What probes read of each action dimension",
        _table(titles, rows),
        "From the whole latent chunk, on held-out clips; dimensions that never vary are left out. "
        "0 is the mean of each step; below 0 the probe has overfitted. MLP: a hidden layer of 64.",
    ]


def _composition(found: Composition) -> list[str]:
    rows = [
        ("the whole chunk", found.whole_error),
        ("first half, a drawing, second half", found.halves_error),
        ("the same, another clip's second half", found.halves_swapped_error),
        ("first half, then that of the policy after a second look", found.relooked_error),
        ("copy of x_t", found.copy_error),
    ]
    return [
        "## Do latents add up? Do they have a direction?",
        _table(("last frame imagined under", "squared error"), [(n, f"{e:.2f}") for n, e in rows]),
        f"On {found.num_clips} clips. If the second row is near the first, latents act on what is "
        "seen and can be chained; near the third, the second half only continues the first.",
        f"After a second look halfway, the policy's latents for the same video correlate by "
        f"{found.agreement:.2f} with what it had planned (clips permuted: mean "
        f"{found.agreement_permuted:.2f}, 95 % {found.agreement_permuted_p95:.2f}).",
        f"Played forwards, prediction saves {found.forward_gain:.0%} of the error of copying; "
        f"played backwards {found.reversed_gain:.0%}. Alike would mean that it knows what moves, "
        "not where to.",
        "A latent z(a→b) of a *pair* of frames, whose sum and sign ALAM tests, does not exist "
        "here: LAWM has no inverse dynamics model.",
    ]


def _retrieval(found: dict[str, Retrieval]) -> list[str]:
    rows = []
    for name, row in found.items():
        cells = [f"{row.same_instruction:.0%} ({row.same_instruction_chance:.0%})"]
        if row.motion_correlation is not None:
            cells.append(f"{row.motion_correlation:.2f} ({row.motion_correlation_chance:.2f})")
        rows.append((name, *cells))
    titles = ("policy", "same instruction (chance)", "correlation of true actions (chance)")
    return [
        "## Nearest clip of another episode",
        _table(titles[: len(rows[0])], rows),
        "Cosine of standardised chunk latents. Latents of motion find clips that move alike; the "
        "same instruction need not mean the same motion.",
    ]


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)
