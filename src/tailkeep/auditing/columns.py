"""Which columns of a table (or arrays of an .npz file) hold what, told by their names."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tailkeep.auditing.cells import Options, check_text, shown
from tailkeep.errors import BadInput

COLUMN_LIMIT = 200_000
"""Columns of a table: twice the classes that there may be."""
SCORES: tuple[tuple[str, str | None], ...] = (
    ("logits", "logits"),
    ("probabilities", "probabilities"),
    ("scores", None),
)
"""Names of an array or a column of lists of scores, with what each says that they are."""
PREFIXES: tuple[tuple[str, str | None], ...] = (("logit_", "logits"), ("prob_", "probabilities"), ("score_", None))
"""The same where every class has a column of its own."""


@dataclass(frozen=True)
class Layout:
    """The columns that matter. ``label`` is one column, or None where every class has one in ``labels`` (multi-label).

    ``labels``, ``predictions`` and ``scores`` map a class to its column; ``score_array`` is one array or column of
    lists instead. ``said`` is what the name of the scores says that they are, None where it does not.
    """

    label: str | None
    prediction: str | None
    labels: dict[str, str]
    predictions: dict[str, str]
    scores: dict[str, str]
    score_array: str | None
    said: str | None
    ids: str | None
    groups: dict[str, str]


def layout(path: Path, columns: Sequence[str], options: Options, arrays: bool = False) -> Layout:
    """Tell columns by their names; with ``arrays`` one may hold a number a class, and go by a plural ("labels").

    Raises BadInput where a name stands twice, a column that the options name is missing, nothing says what the model
    predicted, or scores are there in two forms and the options do not say which to take.
    """
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise BadInput(f"{path}: the column {shown(twice[0])} stands twice; give every column a name of its own")
    if len(columns) > COLUMN_LIMIT:
        raise BadInput(f"{path}: refused, it has {len(columns)} columns (limit {COLUMN_LIMIT})")
    for name in columns:
        check_text(f"{path}: the column name", name)
    label = _named(columns, options.label_column, "labels" if arrays else None)
    labels = {} if label else _one_a_class(columns, f"{options.label_column}_")
    if not label and not labels:
        raise missing(path, columns, options.label_column, "the true class of each row")
    prediction = _named(columns, options.prediction_column, "predictions" if arrays else None)
    predictions = {} if label or prediction else _one_a_class(columns, f"{options.prediction_column}_")
    scores, array, said = _scores(path, columns, options, arrays)
    if not (prediction or predictions or scores or array):
        what = "what the model predicted (or logit_<class> or prob_<class>, its scores)"
        raise missing(path, columns, options.prediction_column, what)
    if options.prediction_column != "prediction" and not (prediction or predictions):
        raise missing(path, columns, options.prediction_column, "what the model predicted")
    ids = _named(columns, options.id_column, "ids" if arrays else None)
    if ids is None and options.id_column != "id":
        raise missing(path, columns, options.id_column, "the id of each row")
    groups = {}
    for group in options.group_columns:
        found = _named(columns, f"group_{group}" if arrays and group not in columns else group, None)
        if found is not None:
            groups[group] = found
        elif not options.groups_optional:
            raise missing(path, columns, group, "the group of each row")
    return Layout(label, prediction, labels, predictions, scores, array, said, ids, groups)


def missing(path: Path, columns: Sequence[str], name: str, role: str) -> BadInput:
    """Return the refusal of a file without a column that it must have."""
    close = difflib.get_close_matches(name, columns[:1000], 1)
    hint = f"; did you mean {shown(close[0])}?" if close else ""
    some = ", ".join(shown(column) for column in columns[:8]) + (", ..." if len(columns) > 8 else "")
    return BadInput(f"{path}: there is no column {name!r}, {role}{hint} (it has: {some or 'nothing'})")


def _named(columns: Sequence[str], name: str, plural: str | None) -> str | None:
    for candidate in (name, plural):
        if candidate is not None and candidate in columns:
            return candidate
    return None


def _one_a_class(columns: Sequence[str], prefix: str) -> dict[str, str]:
    return {name[len(prefix) :]: name for name in columns if name.startswith(prefix) and len(name) > len(prefix)}


def _scores(
    path: Path, columns: Sequence[str], options: Options, arrays: bool
) -> tuple[dict[str, str], str | None, str | None]:
    """Return the score columns by class, or the one array of scores, and what their name says."""
    found: list[tuple[dict[str, str], str | None, str | None]] = []
    if arrays:
        found += [({}, name, said) for name, said in SCORES if name in columns]
    by_class = [(_one_a_class(columns, prefix), said) for prefix, said in PREFIXES]
    found += [(scores, None, said) for scores, said in by_class if scores]
    if len(found) > 1:
        asked = [entry for entry in found if entry[2] == options.scores]
        if len(asked) != 1:
            first, second = (array or next(iter(scores.values())) for scores, array, _ in found[:2])
            raise BadInput(
                f"{path}: holds scores in two forms, {shown(first)} and {shown(second)}; "
                "say which to take (scores = logits or probabilities), or remove one"
            )
        return asked[0]
    return found[0] if found else ({}, None, None)
