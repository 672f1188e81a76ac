"""What scores are (logits or probabilities), what they predict, and whether a prediction beside them agrees."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tailkeep.auditing.cells import Cells, Matrix, Options, Raw
from tailkeep.errors import BadInput

SUM_SLACK = 1e-3
"""How far the probabilities of a row may sum from 1: what rounding to some digits leaves."""
RANGE_SLACK = 1e-6
"""How far a probability may lie outside 0 to 1: what float32 leaves. It is then cut off."""

_WHICH = "say which they are: --scores logits or --scores probabilities (in Python scores=...)"


def tell_scores(raw: Raw, scores: Matrix, options: Options) -> tuple[NDArray[np.floating], str]:
    """Return the scores (N, C) and what they are, "logits" or "probabilities".

    What the user says holds if it can; else the name in the file and the values must agree. Values are probabilities
    where all lie in 0..1 and, unless multi-label, each row sums to 1 within ``SUM_SLACK``. Raises BadInput with the
    first offending row where a value is no finite number, where probabilities are none, and where values leave it open.
    """
    values = scores.values
    _refuse_endless(raw, scores)
    claim = raw.said if options.scores == "auto" else options.scores
    if options.scores == "logits":
        return values, "logits"
    inside = values.min() >= -RANGE_SLACK and values.max() <= 1 + RANGE_SLACK
    if not inside:
        if claim == "probabilities":
            raise _outside(raw, scores)
        return values, "logits"
    totals = values.sum(axis=1, dtype=np.float64)
    off = np.abs(totals - 1) > SUM_SLACK
    summed = raw.task == "multilabel" or not off.any()
    row = 0 if summed else int(np.argmax(off))
    if claim == "logits":
        what = "are probabilities" if summed else "lie between 0 and 1, as probabilities do"
        raise _refusal(raw, row, scores, f"these are called logits but {what}; {_WHICH}")
    if not summed:
        can = "are no probabilities" if claim else "can be logits or probabilities"
        raise _refusal(raw, row, scores, f"the scores sum to {totals[row]:.6g}, not to 1, and {can}; {_WHICH}")
    if values.min() < 0 or values.max() > 1:
        values = np.clip(values, 0, 1)
    return values, "probabilities"


def predict(scores: NDArray[np.floating], are: str, task: str, threshold: float) -> NDArray[np.integer]:
    """Return the class with the highest score, int64 (N,); multi-label, uint8 (N, C): score at the threshold or over.

    Among equal scores the first class wins. ``threshold`` is a probability; a logit is compared by its sigmoid.
    """
    if task == "multiclass":
        best: NDArray[np.integer] = scores.argmax(axis=1).astype(np.int64)
        return best
    return (scores >= _cut(are, threshold)).astype(np.uint8)


def check_agreement(
    raw: Raw,
    given: Cells | Matrix,
    predicted: NDArray[np.integer],
    scores: NDArray[np.floating],
    are: str,
    options: Options,
) -> None:
    """Raise BadInput at the first row whose prediction is not what its scores say; equal scores allow either.

    ``given`` is where the predictions stood in the file, with its columns in the order of the classes.
    """
    if isinstance(given, Cells):
        best = scores.max(axis=1)
        wrong = np.take_along_axis(scores, predicted[:, None], axis=1)[:, 0] < best
        rule = "is not the class with the highest score"
    else:
        cut = _cut(are, options.threshold)
        cells = ((scores > cut) & (predicted == 0)) | ((scores < cut) & (predicted == 1))
        wrong = cells.any(axis=1)
        rule = f"is not what the scores say at threshold {options.threshold:g}"
    if wrong.any():
        row, count = int(np.argmax(wrong)), int(wrong.sum())
        more = f" (and in {count - 1} more rows)" if count > 1 else ""
        column = given.column if isinstance(given, Cells) else given.column(int(np.argmax(cells[row])))
        raise raw.wrong(row, column, f"the prediction {rule}{more}; leave the predictions or the scores out")


def _cut(are: str, threshold: float) -> float:
    return threshold if are == "probabilities" else math.log(threshold / (1 - threshold))


def _refuse_endless(raw: Raw, scores: Matrix) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(scores.values.sum(dtype=np.float64)):  # one pass without a temporary, where all is well
            return
    finite = np.isfinite(scores.values)
    if not finite.all():
        row, column = (int(index) for index in np.argwhere(~finite)[0])
        value = scores.values[row, column]
        cause = "the score is missing or NaN" if np.isnan(value) else f"the score is {value}"
        raise raw.wrong(row, scores.column(column), f"{cause}; did the model diverge?")


def _outside(raw: Raw, scores: Matrix) -> BadInput:
    wrong = (scores.values < -RANGE_SLACK) | (scores.values > 1 + RANGE_SLACK)
    row, column = (int(index) for index in np.argwhere(wrong)[0])
    value = scores.values[row, column].item()
    return raw.wrong(row, scores.column(column), f"{value!r} is no probability; {_WHICH}")


def _refusal(raw: Raw, row: int, scores: Matrix, cause: str) -> BadInput:
    return raw.wrong(row, scores.columns if isinstance(scores.columns, str) else scores.columns[0], cause)
