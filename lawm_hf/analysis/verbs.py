# SPDX-License-Identifier: Apache-2.0
"""Which verb an instruction is about: the groups of the paper's Table III."""

import re
from collections.abc import Sequence

import numpy as np

# Their second word makes them another action than their first alone; "put down" remains a putting.
_TWO_WORDS = ("go to", "pick up", "turn on", "turn off")
_VOWELS = "aeiou"


def verb_of(instruction: str) -> str:
    """The verb an instruction begins with, as an imperative.

    Robot datasets command ("pick up the bowl": "pick up"), Something-Something describes ("Putting
    a cup on a book": "put"). The paper's Put, Move, Remove and Take are such groups.
    """
    words = re.findall(r"[a-z]+", instruction.lower())
    if not words:
        return "(none)"
    verb = _imperative(words[0])
    both = " ".join([verb, *words[1:2]])
    return both if both in _TWO_WORDS else verb


def verb_groups(tasks: Sequence[str]) -> dict[str, np.ndarray]:
    """Numbers of the clips of each verb, the most frequent verb first."""
    verbs = np.array([verb_of(task) for task in tasks])
    names, counts = np.unique(verbs, return_counts=True)
    order = np.lexsort((names, -counts))
    return {str(names[i]): np.flatnonzero(verbs == names[i]) for i in order}


def _imperative(word: str) -> str:
    """The stem of a gerund ("putting": "put", "moving": "move"); other words stay as they are.

    English spelling decides: a doubled consonant was doubled for the ending (but not l, s, f, z:
    "spilling"), and after a single short-looking syllable an undoubled one lost a silent e.
    """
    stem = word.removesuffix("ing")
    if stem == word or not re.search("[aeiouy]", stem):  # "bring" is no gerund
        return word
    if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "lsfz":
        return stem[:-1]
    is_short = re.fullmatch(rf"[^{_VOWELS}]*[{_VOWELS}][^{_VOWELS}wxy]", stem)
    if stem[-1] in "vz" or is_short or re.search("[bcdfgkpt]l$", stem):
        return f"{stem}e"
    return stem
