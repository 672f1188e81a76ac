"""What an audit remarks on its inputs: equal answers, classes that fit no label, what the gate leaves out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tailkeep.analysis.gate import Check
from tailkeep.auditing.cells import shown
from tailkeep.auditing.predictions import Predictions

Pair = tuple[Predictions, Predictions]
NOT_GATED = (
    "False positives were not gated: recall asks the images of a class alone, so a model that says yes too often is "
    "not held back (max_false_positive_rise, --max-false-positive-rise, sets a limit)."
)


def of_pairs(pairs: Sequence[Pair]) -> list[str]:
    """Return the remarks on a candidate and its baseline, of every pair of seeds."""
    found = []
    for number, pair in enumerate(pairs):
        start = f"pair {number + 1}: " if len(pairs) > 1 else ""
        same = _same(*pair)
        wrong = [(role, _never_right(model)) for role, model in zip(("baseline", "candidate"), pair, strict=True)]
        found += [f"{start}{same}"] if same else []
        found += [f"{start}the {role}: {why}" for role, why in wrong if why]
    return found


def _same(before: Predictions, after: Predictions) -> str | None:
    """Say that the two models' answers are the same, which may be a slip."""
    files = [one.source.get("sha256") for one in (before, after)]
    if files[0] is not None and files[0] == files[1]:
        return "its file is the baseline's, byte for byte; was the right one given?"
    if np.array_equal(before.predicted, after.predicted):
        return "no prediction differs from the baseline's; was the right file, or array, given?"
    return None


def _never_right(model: Predictions) -> str | None:
    """Say that no prediction equals its label, and the likely cause."""
    if model.task == "multilabel" or bool((model.predicted == model.labels).any()):
        return None
    names = model.class_names
    labels, predicted = ({names[i] for i in np.unique(v).tolist()} for v in (model.labels, model.predicted))
    alike = {name.strip().casefold(): name for name in sorted(labels - predicted)}
    for name in sorted(predicted - labels):
        if (other := alike.get(name.strip().casefold())) is not None:
            return (
                f"no prediction equals its label; labels say {shown(other)} and predictions {shown(name)}: write both "
                "alike, capitals too"
            )
    for step, which in ((1, "one more"), (-1, "one less")):
        if bool(np.mean(model.predicted == model.labels + step) > 0.5):
            return (
                f"no prediction equals its label; most predictions are {which} than their label: is one counted from 0 "
                "and the other from 1?"
            )
    if not labels & predicted:
        return (
            f"no prediction equals its label, and they share no class ({shown(min(labels))}, {shown(min(predicted))}): "
            "are both written in the same words?"
        )
    return "no prediction equals its label; are the rows in the same order as the labels, and the classes too?"


def of_classes(names: Sequence[str]) -> list[str]:
    """Say which classes were taken, where whole numbers have gaps: a class that never occurs is no class then."""
    if not all(name.isdecimal() for name in names):
        return []
    numbers = [int(name) for name in names]
    gaps = max(numbers) + 1 - len(numbers)
    if gaps <= 0:
        return []
    return [
        f"the classes are the {len(numbers)} whole numbers that occur; the other {gaps:,} from 0 to {max(numbers):,} "
        "do not, and nothing is said of them (class_names, --class-names, names all classes)"
    ]


def caveat(before: Predictions, asked: Sequence[Check]) -> str:
    """Return a sentence on the false positives that no check asks about, empty where each is asked.

    Of two classes a false positive of one is a loss of the other, and so asked where that one's loss is.
    """
    limited = {check.name for check in asked if check.kind == "rise"}
    if before.task == "multilabel":
        left = [name for name in before.class_names if name not in limited]
        if len(left) < len(before.class_names) and left:
            return f"False positives of {len(left)} of {len(before.class_names)} classes were not gated."
        return NOT_GATED if left else ""
    if len(before.class_names) != 2:
        return ""
    lost = {check.name for check in asked if check.kind == "drop" and check.unit == "class"}
    first, second = before.class_names
    left = [name for name, other in ((first, second), (second, first)) if name not in limited and other not in lost]
    return f"False positives of {' and '.join(map(shown, left))} were not gated." if left else ""


def told_apart(said: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """Return the notes of all candidates: one that holds for each stands once, another with its candidate's name."""
    if len(said) == 1:
        return list(said[0][1])
    everywhere = set(said[0][1]).intersection(*(notes for _, notes in said[1:]))
    found = []
    for name, notes in said:
        found += [note if note in everywhere else f"{name}: {note}" for note in notes]
    return list(dict.fromkeys(found))
