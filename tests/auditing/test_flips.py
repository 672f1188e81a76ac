from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import special

from tailkeep.auditing.flips import COLUMNS, flips, modal
from tailkeep.auditing.predictions import Predictions

NAMES = ("ant", "bee", "cow")
LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 2])
BEFORE = np.array([0, 0, 1, 1, 1, 2, 0, 0])
AFTER = np.array([0, 1, 2, 1, 2, 1, 2, 0])


def given(predicted: np.ndarray, **more) -> Predictions:
    return Predictions("model", LABELS, predicted, NAMES, **more)


def test_every_changed_answer_has_a_row() -> None:
    ids = np.array([f"image-{i}" for i in range(8)])
    table = flips(given(BEFORE, ids=ids), given(AFTER, ids=ids), train_counts=[100, 50, 5])
    assert list(table.columns) == COLUMNS
    rows = [
        tuple(row) for row in table[["row", "id", "label", "baseline", "candidate", "kind"]].itertuples(index=False)
    ]
    # Lost first, the rarest class before the others; then answers that were wrong before; won last.
    assert rows == [
        (5, "image-5", "cow", "cow", "bee", "lost"),
        (4, "image-4", "bee", "bee", "cow", "lost"),
        (1, "image-1", "ant", "ant", "bee", "lost"),
        (2, "image-2", "ant", "bee", "cow", "other"),
        (6, "image-6", "cow", "ant", "cow", "won"),
    ]
    assert table["severity"].tolist() == pytest.approx([2 + 2 / 3, 2 + 1 / 3, 2, 1, 2 / 3])
    assert flips(given(BEFORE), given(AFTER), [100, 50, 5], limit=2)["id"].tolist() == ["5", "4"]


def test_without_training_counts_the_test_set_tells_what_is_rare() -> None:
    table = flips(given(BEFORE), given(AFTER))
    assert table["row"].tolist() == [4, 1, 5, 2, 6]  # bee has two images, ant and cow three
    assert flips(given(BEFORE), given(BEFORE)).empty


@pytest.mark.parametrize("are", ["logits", "probabilities"])
def test_scores_tell_how_far_the_true_class_fell(are: str) -> None:
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=(8, 3)) for _ in range(2)]
    whole = [special.softmax(one, axis=1) for one in scores]
    before, after = (
        given(guess, scores=shown, scores_are=are)
        for guess, shown in zip((BEFORE, AFTER), scores if are == "logits" else whole, strict=True)
    )
    table = flips(before, after, train_counts=[100, 50, 5])
    fall = (whole[0] - whole[1])[np.arange(8), LABELS]
    assert sorted(table["row"]) == [1, 2, 4, 5, 6]
    np.testing.assert_allclose(table["severity"], fall[table["row"]])
    assert table["severity"].is_monotonic_decreasing
    # One model without scores: by rarity.
    assert flips(replace(before, scores=None, scores_are=None), after)["severity"].max() > 2


def test_several_seeds_give_the_images_whose_modal_answer_differs() -> None:
    before = [given(BEFORE), given(BEFORE), given(AFTER)]
    after = [given(AFTER), given(BEFORE), given(AFTER)]
    single = flips(given(BEFORE), given(AFTER))
    assert flips(before, after).equals(single)
    # One seed alone that changes is no such image.
    assert flips(before, [given(BEFORE), given(AFTER), given(BEFORE)]).empty


def test_the_modal_answer_of_equals_is_the_first_class() -> None:
    votes = [np.array(one) for one in ([2, 1, 0, 2], [1, 1, 2, 0], [1, 0, 2, 1], [2, 0, 2, 1])]
    assert modal(votes).tolist() == [1, 0, 2, 1]


def test_several_seeds_average_the_fall() -> None:
    rng = np.random.default_rng(1)
    scores = [special.softmax(rng.normal(size=(8, 3)), axis=1) for _ in range(4)]
    models = [given(g, scores=s, scores_are="probabilities") for g, s in zip((BEFORE,) * 2 + (AFTER,) * 2, scores)]  # noqa: B905
    table = flips(models[:2], models[2:])
    fall = (scores[0] + scores[1] - scores[2] - scores[3])[np.arange(8), LABELS] / 2
    np.testing.assert_allclose(table["severity"], fall[table["row"]])


def test_multi_label_answers_flip_one_class_at_a_time() -> None:
    labels = np.array([[1, 0, 0], [1, 1, 0]], dtype=np.uint8)
    before = np.array([[1, 1, 0], [0, 1, 0]], dtype=np.uint8)
    after = np.array([[0, 0, 0], [0, 1, 1]], dtype=np.uint8)

    def model(predicted: np.ndarray, scores: np.ndarray) -> Predictions:
        return Predictions("m", labels, predicted, NAMES, "multilabel", scores, "probabilities")

    old, new = np.full((2, 3), 0.5), np.array([[0.1, 0.4, 0.5], [0.5, 0.5, 0.8]])
    table = flips(model(before, old), model(after, new))
    rows = [tuple(row) for row in table.drop(columns=["id", "severity"]).itertuples(index=False)]
    assert rows == [
        (0, "ant", "ant", "not ant", "lost"),
        (1, "not cow", "not cow", "cow", "lost"),
        (0, "not bee", "bee", "not bee", "won"),
    ]
    assert table["severity"].tolist() == pytest.approx([0.4, 0.3, -0.1])


def test_other_labels_are_refused() -> None:
    other = Predictions("other", LABELS[::-1].copy(), AFTER, NAMES)
    with pytest.raises(ValueError, match="other: other labels"):
        flips(given(BEFORE), other)
