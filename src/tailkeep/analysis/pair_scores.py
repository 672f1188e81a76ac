"""What a model's scores say of it, class by class: calibration, loss, average precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tailkeep.analysis.pair_counts import Answers
from tailkeep.evaluation import calibration, multilabel
from tailkeep.evaluation.metrics import rate_of_counts

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScoreFigures:
    """Figures of one model, float64 (C,), NaN where a class has no images.

    ``ece`` by class and ``ece_overall`` as shares; ``mean_loss`` the mean log loss of a class's images in nats;
    ``average_precision`` of a multi-label model, else NaN.
    """

    ece: Floats
    ece_overall: float
    mean_loss: Floats
    average_precision: Floats


def figures_of_scores(answers: Answers, bins: int = calibration.BINS) -> ScoreFigures:
    """Return the figures of a model's scores; all NaN where it has none.

    Confidence is the probability of the class that the model gave. Multi-label: each class is a question of its own,
    its error over all rows, its loss over its positive rows, and the overall error the mean over the classes.
    """
    classes = len(answers.class_names)
    unknown = np.full(classes, np.nan)
    if answers.scores is None:
        return ScoreFigures(unknown, float("nan"), unknown, unknown)
    if answers.task == "multilabel":
        return _of_labels(answers, bins)
    labels, are = answers.labels, answers.scores_are or "logits"
    sure = calibration.probability_of(answers.scores, answers.predicted, are)
    right = answers.predicted == labels
    loss = calibration.log_loss_of(answers.scores, labels, are)
    n = np.bincount(labels, minlength=classes)
    return ScoreFigures(
        ece=calibration.class_calibration_error(sure, right, labels, classes, bins),
        ece_overall=calibration.expected_calibration_error(sure, right, bins),
        mean_loss=rate_of_counts(np.bincount(labels, weights=loss, minlength=classes), n),
        average_precision=unknown,
    )


def _of_labels(answers: Answers, bins: int) -> ScoreFigures:
    scores, labels = np.asarray(answers.scores, dtype=np.float64), answers.labels
    if answers.scores_are == "logits":
        loss, given = np.logaddexp(0.0, -scores), special.expit(scores)
    else:
        loss, given = -np.log(np.maximum(scores, np.finfo(np.float64).tiny)), scores
    ece = calibration.binary_calibration_error(given, labels, bins)
    return ScoreFigures(
        ece=ece,
        ece_overall=float(ece.mean()),
        mean_loss=rate_of_counts((loss * labels).sum(axis=0), labels.sum(axis=0, dtype=np.int64)),
        average_precision=multilabel.average_precision(labels, scores),
    )
