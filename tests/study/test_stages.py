"""Where a model answers imbalance, twins that are left out, and a study that is evaluated on both splits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tailkeep.errors import BadInput
from tailkeep.study.results import cell_stages, result_hash
from tailkeep.study.runner import Study
from tailkeep.study.spec import MethodEntry
from tailkeep.study.stages import Stages

SHORT = {"epochs": 1, "batch_size": 32, "lr": 0.02, "precision": "float32"}
PRUNING = {"method": {"kind": "filter_pruning"}, "recipe": SHORT}
BALANCED = {"loss": {"kind": "balanced_softmax"}}
POST_HOC = {"method": {"kind": "logit_adjustment_post_hoc"}}


@pytest.fixture
def crossed(small: dict[str, Any]) -> dict[str, Any]:
    """Two dense models, plain and repaired, and repairs at every place."""
    small["models"] = [
        {"model": {"kind": "digits_net"}, "name": "plain"},
        {"model": {"kind": "digits_net"}, "name": "repaired", **BALANCED},
    ]
    small["methods"] = [
        {"name": "pruned", **PRUNING},
        {"name": "pruned + balanced", **PRUNING, **BALANCED},
        {"name": "adjusted", **POST_HOC},
        {"name": "pruned + adjusted", "parent": "pruned", **POST_HOC},
        {"name": "adjusted + pruned", "parent": "adjusted", **PRUNING},
        {"name": "int8 + tail", "method": {"kind": "ptq", "calibration_draw": "tail"}},
        {"name": "crt", "method": {"kind": "classifier_retraining"}, "recipe": SHORT},
        {"name": "crt + drawn", "method": {"kind": "classifier_retraining"}, "recipe": SHORT,
         "sampler": {"kind": "class_balanced"}},
    ]  # fmt: skip
    return small


def test_stages_follow_the_chain(crossed: dict[str, Any], opened: Callable[..., Study]) -> None:
    table = cell_stages(opened({**crossed, "balanced": "none"}).plan)
    names = ["before", "during", "after", "compressed"]
    found = {
        (row.model, row.method): Stages(*(bool(getattr(row, name)) for name in names)) for row in table.itertuples()
    }
    plain = {method: stages for (model, method), stages in found.items() if model == "plain"}
    assert plain == {
        "dense": Stages(),
        "pruned": Stages(compressed=True),
        "pruned + balanced": Stages(during=True, compressed=True),
        "adjusted": Stages(after=True),
        "pruned + adjusted": Stages(after=True, compressed=True),
        "adjusted + pruned": Stages(before=True, compressed=True),
        "int8 + tail": Stages(during=True, compressed=True),
        "crt": Stages(),
        "crt + drawn": Stages(after=True),
    }
    assert all(stages.before for (model, _), stages in found.items() if model == "repaired")


def test_twins_that_are_left_out(crossed: dict[str, Any], opened: Callable[..., Study]) -> None:
    crossed["models"][1]["twins"] = False
    crossed["methods"][1]["twins"] = False
    crossed["methods"][2]["twins"] = False
    cells = [cell.labels for cell in opened(crossed).plan.cells if cell.labels["role"] != "control"]
    twins = {(cell["model"], cell["method"]) for cell in cells if cell["twin"] == "matched"}
    wanted = ("dense", "pruned", "pruned + adjusted", "adjusted + pruned", "int8 + tail", "crt", "crt + drawn")
    assert twins == {("plain", name) for name in wanted}, "a pipeline keeps its twin where its parent has none"
    assert len([cell for cell in cells if cell["twin"] == "imbalanced"]) == 2 * 9


def test_a_method_without_a_twin_is_not_said_to_have_lost_it(
    small: dict[str, Any], opened: Callable[..., Study]
) -> None:
    adjusted = {"name": "adjusted", "method": {"kind": "logit_adjustment_post_hoc"}, "twins": False}
    methods = [{**small["methods"][0], "twins": False}, small["methods"][1], adjusted]
    small |= {"balanced": "matched", "methods": methods}
    study = opened(small)
    study.run()
    without, other, repair = study.analyse()[1].verdicts
    assert "the excess gap is not available: no balanced twin is planned; compression " in without.sentence
    assert (without.label, without.twin) == ("not available", "none")
    assert other.twin == "matched"
    assert "; the repair " in repair.sentence, "it compresses nothing"


def test_both_splits_are_evaluated_and_the_figures_are_the_tests(
    small: dict[str, Any], opened: Callable[..., Study]
) -> None:
    small |= {"methods": small["methods"][:1], "balanced": "none", "validation_per_class": 20}
    alone = opened({**small, "evaluate": "validation"})
    alone.run()
    study = opened({**small, "evaluate": "both"})
    assert study.summary()["trainings_to_do"] == 0, "the same models serve both splits"
    study.run()
    frame, analysis = study.analyse()
    assert set(frame["split"]) == {"test", "validation"}
    validation = frame[(frame["split"] == "validation") & (frame["reference"] == "self")]
    before = alone.analyse()[0]
    before = before[before["reference"] == "self"]
    keys = ["method", "class_name"]
    both = validation.merge(before, on=keys, suffixes=("", "_alone"))
    assert len(both) == len(validation) > 0
    assert (both["tp"] == both["tp_alone"]).all()
    test = opened({**small, "evaluate": "test"})
    assert analysis.accuracy.equals(test.analyse()[1].accuracy)
    assert result_hash(study.plan, study.store) != result_hash(test.plan, test.store)


def test_both_splits_need_held_out_images(small: dict[str, Any], opened: Callable[..., Study]) -> None:
    with pytest.raises(BadInput, match="evaluate: both needs validation_per_class above 0"):
        opened({**small, "evaluate": "both"})


def test_a_loss_with_a_head_of_its_own_needs_a_dense_model_of_it(
    crossed: dict[str, Any], opened: Callable[..., Study]
) -> None:
    crossed |= {"balanced": "none", "methods": [{"name": "pruned", **PRUNING, "loss": {"kind": "ldam"}}]}
    with pytest.raises(BadInput, match=r"method 'pruned' on 'plain': loss ldam needs a normalised head"):
        opened(crossed)
    crossed["models"][0]["loss"] = {"kind": "ldam", "drw": 0.8}
    crossed["methods"][0]["models"] = ["plain"]
    opened(crossed)
    student = {"student": {"kind": "digits_net", "width": 0.5}, "method": {"kind": "distillation"}, "recipe": SHORT}
    crossed["methods"] += [
        {"name": "student", **student, "models": ["repaired"]},
        {"name": "student + pruned", "parent": "student", **PRUNING, "loss": {"kind": "ldam"}, "models": ["repaired"]},
    ]
    with pytest.raises(BadInput, match="on 'student'"):
        opened(crossed)
    crossed["methods"][1]["loss"] = {"kind": "ldam"}
    opened(crossed)


def test_every_repair_and_no_plain_method_says_what_it_does() -> None:
    kinds = {"tau_normalisation": True, "class_aware_pruning": True, "filter_pruning": False, "qat": False}
    for kind, answers in kinds.items():
        recipe = None if kind == "tau_normalisation" else SHORT
        entry = MethodEntry.model_validate({"name": "x", "method": {"kind": kind}, "recipe": recipe})
        assert entry.method.answers_imbalance is answers
