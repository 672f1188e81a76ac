"""From a study file to each of the three answers, on the digits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailkeep.data.digits import Digits
from tailkeep.recommend.request import Request
from tailkeep.study.engine import Event
from tailkeep.study.runner import Study
from tailkeep.study.spec import load_study

from .conftest import INTEGERS, PRUNED, RUINED, SAME


def test_an_identical_model_is_safe_without_any_loss(ask: Any, asked: Any, tmp_path: Path) -> None:
    answer = ask(asked(SAME))
    assert (answer.status, answer.exit_code, answer.chosen) == ("safe", 0, "same")
    assert {(c.n10, c.n01, c.loss) for c in answer.evidence[0].classes} == {(0, 0, 0.0)}
    assert Path(answer.place["file"]).is_file()
    written = load_study(tmp_path / "out" / "study.yaml")[0]
    assert written.validation_per_class == 20
    assert answer.export.startswith(
        f"tailkeep export {tmp_path / 'out' / 'study.yaml'} --method same --model digits_net"
    )


@pytest.mark.slow
def test_an_object_store_gives_the_same_answer(ask: Any, asked: Any, bucket: str) -> None:
    from tailkeep.study.stores import open_store

    url = f"s3://{bucket}/asked"
    here, there = ask(asked(SAME)), ask(asked(SAME), store=url)
    assert (there.status, there.sentence, there.evidence) == (here.status, here.sentence, here.evidence)
    assert there.place["store"] == url
    assert there.place["file"].startswith(f"{url}/")
    assert there.export.endswith(f"--store {url}")
    assert len(open_store(url).files_in("recommend", ".json")) == 1


def test_a_small_test_set_cannot_tell_and_says_what_would(ask: Any, asked: Any) -> None:
    answer = ask(asked(SAME), max_class_drop=2.0)
    assert (answer.status, answer.exit_code) == ("cannot tell", 5)
    assert set(answer.images_needed) == set("0123456789")
    assert answer.images_needed["0"] == pytest.approx(150, abs=10)
    assert "not even a model without a single flip" in answer.sentence
    assert any("too few held-out images to show" in note for note in answer.notes)


def test_each_question_has_a_folder_of_its_own(
    ask: Any, asked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = {**asked(SAME), "name": "mine"}
    folders = [ask(study, out=None, **question).folder for question in ({}, {"max_class_drop": 2.0, "smaller": 1.0})]
    assert folders == ["tailkeep-results/mine recommend/10pp", "tailkeep-results/mine recommend/2pp 1x"]
    for folder in folders:
        assert (tmp_path / folder / "order.json").is_file()


@pytest.mark.parametrize(
    ("question", "short"),
    [
        ({}, "2pp"),
        ({"max_class_drop": 0.5, "max_macs": 2e7, "confidence": 0.9}, "0.5pp 2e+07 MACs 0.9"),
        ({"max_bytes": 20000.0, "baseline": "a/../b c", "seed": 3}, "2pp 20000 bytes a_.._b_c seed 3"),
        ({"max_latency_ms": 1.5}, "2pp 1.5ms"),
    ],
)
def test_a_question_in_short(question: dict[str, Any], short: str) -> None:
    assert Request(**question).short == short


def test_what_ruins_a_class_is_not_safe(ask: Any, asked: Any) -> None:
    answer = ask(asked(RUINED))
    assert (answer.status, answer.exit_code) == ("nothing is safe", 1)
    assert answer.broken["ruined"]
    assert repr(answer.broken["ruined"][0]) in answer.sentence


def test_the_smallest_that_passed_is_chosen(ask: Any, asked: Any) -> None:
    answer = ask(asked(SAME, INTEGERS), max_class_drop=12.0)
    passed = [each for each in answer.frontier if each.status == "passed"]
    assert answer.chosen == min(passed, key=lambda each: each.packed_bytes or 0).name
    assert json.loads(json.dumps(answer.to_dict(), allow_nan=False))["exit_code"] == answer.exit_code


def test_the_order_is_fixed_before_the_held_out_split_is_read(
    ask: Any, asked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = asked(SAME, INTEGERS, RUINED)
    first = ask(study)
    order = json.loads((tmp_path / "out" / "order.json").read_text(encoding="utf-8"))
    original = Digits.load

    def permuted(self: Digits, root: Path | None = None, cache: Path | None = None) -> Any:
        dataset = original(self, root, cache)
        labels = np.random.RandomState(0).permutation(dataset.test.labels)
        return replace(dataset, test=replace(dataset.test, labels=labels, digest="f" * 64))

    monkeypatch.setattr(Digits, "load", permuted)
    second = ask(study, new_data=True)
    again = json.loads((tmp_path / "out" / "order.json").read_text(encoding="utf-8"))
    assert order["held_out"].pop("digest") != again["held_out"].pop("digest")
    assert again == order
    assert second.evidence != first.evidence, "the labels did reach the decision"
    monkeypatch.undo()
    ask(study, new_data=True)


def test_the_held_out_split_is_predicted_for_no_more_than_the_sequence(ask: Any, asked: Any, tmp_path: Path) -> None:
    store = tmp_path / "store"
    events: list[str] = []

    def runner(study: Study) -> dict[str, str]:
        tests = [step for step in study.todo.values() if step.kind == "predict" and step.spec["split"] == "test"]
        events.extend(step.label for step in tests)
        return study.run().failed

    answer = ask(asked(RUINED, SAME), store=store, runner=runner, max_class_drop=2.0)
    assert not events, "the search asks for no test image"
    assert answer.order[0] == "same"
    predicted = [json.loads(p.read_text()) for p in store.glob("predict/*/step.json")]
    on_test = sorted(one["label"].split(":")[0] for one in predicted if one["spec"]["split"] == "test")
    assert on_test == ["predict dense", "predict same"], "the one behind it was not reached"


@pytest.mark.slow
def test_a_killed_search_goes_on_to_the_same_answer_and_a_second_run_does_nothing(
    ask: Any, asked: Any, tmp_path: Path
) -> None:
    study, wide = asked(*PRUNED, INTEGERS), 30.0  # so wide that the best is likely to pass, and nobody is called back
    whole = ask(study, store=tmp_path / "whole", max_class_drop=wide)
    early = [each for each in whole.frontier if each.status == "pruned early"]
    assert len(early) == 3
    assert {each.trained for each in early} == {0.25}

    class Killed(BaseException):
        pass

    done: list[str] = []

    def dying(study: Study) -> dict[str, str]:
        def count(event: Event) -> None:
            done.extend([event.step.key] if event.what == "done" else [])
            if len(done) == 4:
                raise Killed

        return study.run(count).failed

    with pytest.raises(Killed):
        ask(study, store=tmp_path / "killed", runner=dying, max_class_drop=wide)
    resumed = ask(study, store=tmp_path / "killed", max_class_drop=wide)
    assert resumed.frontier == whole.frontier
    assert (resumed.order, resumed.evidence, resumed.sentence) == (whole.order, whole.evidence, whole.sentence)
    stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").rglob("manifest.json")}
    third = ask(study, store=tmp_path / "killed", max_class_drop=wide)
    assert third == resumed
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").rglob("manifest.json")} == stored


def test_what_is_too_large_is_dropped_before_it_trains(ask: Any, asked: Any) -> None:
    answer = ask(asked(INTEGERS, PRUNED[0]), smaller=3)
    status = {each.name: each for each in answer.frontier}
    assert status["pruned 20"].status == "out of budget"
    assert status["pruned 20"].trained == 0
    assert status["int8"].times_smaller >= 3


def test_a_candidate_that_fails_is_listed_and_never_ranked(
    ask: Any, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailkeep.compression.pruning.filter_rank import FilterPruning
    from tailkeep.errors import StepFailed

    def broken(self: FilterPruning, model: Any, context: Any) -> Any:
        raise StepFailed("nan", "the loss became NaN")

    monkeypatch.setattr(FilterPruning, "prepare", broken)
    bad = {"name": "bad", "method": {"kind": "filter_pruning", "ratio": 0.31}, "recipe": PRUNED[0]["recipe"]}
    answer = ask(asked(bad, SAME))
    row = next(each for each in answer.frontier if each.name == "bad")
    assert (row.status, row.place) == ("failed", None)
    assert "NaN" in row.detail
    assert answer.order == ("same",)


def test_other_questions_to_the_same_images_are_counted(ask: Any, asked: Any, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert not any("other question" in note for note in ask(asked(SAME), store=store).notes)
    assert not any("other question" in note for note in ask(asked(SAME), store=store).notes), "the same one again"
    assert any("1 other question" in note for note in ask(asked(SAME), store=store, confidence=0.9).notes)
