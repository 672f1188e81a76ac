"""From a study to a runtime: files, their own predictions, timings beside each other, one model by the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailkeep.study.results import NO_KERNEL, cell_sizes, latencies, predictions, result_hash
from tailkeep.study.runner import Options, Study, open_study

RECIPE = {"epochs": 1, "batch_size": 32, "lr": 0.01, "precision": "float32"}
# 7 bits of weights: kernels of x86 CPUs without VNNI add pairs of 8-bit products in 16 bits, which saturate
INT8 = {"kind": "ptq", "placement": "runtime", "keep_first_last": False, "weight_bits": 7}
STUDY: dict[str, Any] = {
    "name": "deployed",
    "data": {"source": {"kind": "digits"}},
    "imbalance": [{"kind": "exponential", "ratio": 10, "n_max": 60}],
    "balanced": "none",
    "models": [{"model": {"kind": "digits_net"}}],
    "recipe": {"epochs": 10, "batch_size": 32, "lr": 0.1, "precision": "float32"},
    "methods": [
        {"name": "pruned", "method": {"kind": "filter_pruning", "ratio": 0.5}, "recipe": RECIPE},
        {"name": "int8", "parent": "pruned", "method": INT8},
        {"name": "A4", "method": {"kind": "ptq", "activation_bits": 4}},
    ],
    "controls": {"continued": False, "churn_floor": False},
    "seeds": [0],
    "export": {"rounds": 5, "batches": [1, 8]},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study above, run once."""
    folder = tmp_path_factory.mktemp("deployed")
    (folder / "study.yaml").write_text(json.dumps(STUDY), encoding="utf-8")
    opened = open_study(folder / "study.yaml", Options(store=folder / "store", workers=1, cache=folder / "cache"))
    outcome = opened.run()
    assert not outcome.failed
    return opened


def names(study: Study) -> dict[str, list[str]]:
    return {name: facts["class_names"] for name, facts in study.resolved.datasets.items()}


def test_every_model_of_the_study_has_a_file_that_predicts_as_it_does(study: Study) -> None:
    sizes = cell_sizes(study.plan, study.store, names(study)).set_index("method")
    assert list(sizes.index) == ["dense", "pruned", "int8", "A4"]
    assert (sizes["agreement"] >= 0.99).all(), sizes["agreement"]
    assert sizes.loc["dense", "agreement"] == 1
    assert (sizes["worst_agreement"] <= sizes["agreement"]).all()
    assert sizes.loc["int8", "file_bytes"] < sizes.loc["pruned", "file_bytes"] < sizes.loc["dense", "file_bytes"]
    assert (sizes["gzip_bytes"] < sizes["file_bytes"]).all()
    cell = next(c for c in study.plan.cells if c.labels["method"] == "int8")
    simulated, ran = (predictions(study.store, str(key)) for key in (cell.predict_key, cell.export_predict_key))
    assert (simulated["ids"] == ran["ids"]).all()
    same = simulated["logits"].argmax(1) == ran["logits"].argmax(1)
    assert sizes.loc["int8", "agreement"] == same.mean()
    assert sizes.loc["int8", "largest_difference"] == pytest.approx(np.abs(simulated["logits"] - ran["logits"]).max())


def test_the_files_are_timed_beside_each_other(study: Study) -> None:
    found = latencies(study.plan, study.store)
    assert found is not None
    timed = found[found["bits_note"] == ""]
    assert sorted(set(zip(timed["method"], timed["batch"], strict=True))) == sorted(
        (method, batch) for method in ("dense", "pruned", "int8") for batch in (1, 8)
    )
    assert (timed["median_ms"] > 0).all()
    assert (timed[timed["method"] == "dense"]["ratio"] == 1).all()
    left = found[found["bits_note"] == NO_KERNEL]
    assert list(left["method"]) == ["A4", "A4"], "its size is known, its speed is not"
    assert left["median_ms"].isna().all()


def test_timings_are_in_no_hash_and_a_second_run_does_nothing(study: Study) -> None:
    before = result_hash(study.plan, study.store)
    assert not study.todo
    assert not study.run().done
    measures, study.plan.measures = study.plan.measures, []
    assert result_hash(study.plan, study.store) == before
    study.plan.measures = measures


def test_the_report_shows_the_deployment(study: Study) -> None:
    _, analysis = study.analyse()
    assert not [note for note in analysis.notes if "Not exported" in note]


@pytest.fixture
def export(study: Study, cli: Any) -> Callable[..., Any]:
    file = study.store.root.parent / "study.yaml"
    return lambda *more: cli("export", file, "--store", study.store.root, *more)


def test_one_model_by_the_command_line(export: Any, tmp_path: Path) -> None:
    done = export("--method", "int8", "--out", tmp_path / "out" / "m.onnx", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["method"], facts["seed"]) == ("int8", 0)
    assert facts["file_bytes"] == (tmp_path / "out" / "m.onnx").stat().st_size
    assert facts["agreement"] >= 0.99
    assert facts["int8_weights"] == facts["weights"]


def test_packed_weights_are_another_file_with_the_same_predictions(opened: Any, cli: Any, tmp_path: Path) -> None:
    four = {"name": "W4", "method": {**INT8, "weight_bits": 4}}
    base = {**STUDY, "methods": [four]}
    plain, packed = (opened({**base, "export": {"latency": False, "pack_weights": pack}}) for pack in (False, True))
    files = [{str(c.labels["method"]): str(c.export_key) for c in study.plan.cells} for study in (plain, packed)]
    assert files[0] != files[1]
    specs = [study.plan.steps[keys["W4"]].spec for study, keys in zip((plain, packed), files, strict=True)]
    assert "pack_weights" not in specs[0], "files of before it keep their keys"
    for study in (plain, packed):
        assert not study.run().failed
    sizes = [cell_sizes(s.plan, s.store, names(s)).set_index("method") for s in (plain, packed)]
    assert sizes[1].loc["W4", "file_bytes"] < 0.75 * sizes[0].loc["W4", "file_bytes"]
    assert sizes[1].loc["dense", "file_bytes"] == sizes[0].loc["dense", "file_bytes"]
    ran = [
        predictions(s.store, str(cell.export_predict_key))["logits"]
        for s in (plain, packed)
        for cell in s.plan.cells
        if cell.labels["method"] == "W4"
    ]
    assert np.array_equal(*ran)
    common = ("export", tmp_path / "study.yaml", "--store", tmp_path / "store", "--method", "W4", "--pack-weights")
    out = tmp_path / "m.onnx"
    done = cli(*common, "--out", out)
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size == sizes[1].loc["W4", "file_bytes"]
    held = int(sizes[1].loc["W4", "weights"])
    assert f"{held:,} weights (0 of them int8, {held:,} int4)" in " ".join(done.stdout.split())
    refused = cli(*common, "--format", "executorch")
    assert refused.returncode == 2
    assert "--pack-weights is for ONNX files" in refused.stderr


def test_a_method_that_the_study_lacks_is_refused(export: Any) -> None:
    refused = export("--method", "prunde")
    assert refused.returncode == 2
    assert "--method prunde: the study has dense, pruned, int8, A4; did you mean 'pruned'?" in refused.stderr


def test_a_model_that_is_not_stored_is_refused(opened: Any, cli: Any, tmp_path: Path) -> None:
    opened(STUDY)
    refused = cli("export", tmp_path / "study.yaml", "--method", "dense", "--store", tmp_path / "empty")
    assert refused.returncode == 2
    assert "dense (seed 0) is not in the store" in refused.stderr


def test_saturating_kernels_are_named_as_the_cause(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a runtime that predicts something else, on a CPU without VNNI and on one with it."""
    from tailkeep.study import deploy

    whole = {**INT8, "weight_bits": 8}
    base = {**STUDY, "methods": [{"name": "int8", "method": whole}], "export": {"latency": False}}
    real = deploy.run_file
    monkeypatch.setattr(deploy, "run_file", lambda *given: -real(*given))
    for seed, saturates in enumerate((True, False)):
        monkeypatch.setattr(deploy, "integer_sums_saturate", lambda saturates=saturates: saturates)
        study = opened({**base, "seeds": [seed]})
        study.run()
        notes = "\n".join(study.analyse()[1].notes)
        assert ("int8: this CPU has no VNNI" in notes) == saturates
        assert "dense: this CPU" not in notes, "a float file has no integer sums"


def test_what_fails_on_the_way_is_said_and_costs_only_itself(
    opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailkeep.errors import StepFailed
    from tailkeep.export.onnx import export_onnx
    from tailkeep.study import deploy

    def failing(model: Any, shape: Any, path: Path, pack: bool) -> dict[str, Any]:
        if sum(parameter.numel() for parameter in model.parameters()) < 12_000:  # the pruned one
            raise StepFailed("export", "no such operation")
        return export_onnx(model, shape, path, pack)

    monkeypatch.setattr(deploy, "export_onnx", failing)
    some = {**STUDY, "methods": STUDY["methods"][:1]}
    study = opened(some)
    outcome = study.run()
    assert sorted(reason.split(":")[0] for reason in outcome.failed.values()) == ["export", "parent failed"]
    found = latencies(study.plan, study.store)
    assert found is not None
    assert set(found["method"]) == {"dense"}
    _, analysis = study.analyse()
    assert "Not exported: pruned (seed 0): export: no such operation" in analysis.notes
    assert not len(analysis.failures), "its predictions are there all the same"


def test_an_ensemble_teaches(opened: Any) -> None:
    """Teachers of the other seeds are parents too, so another teacher is another step."""
    entry = {"name": "taught", "method": {"kind": "distillation"}, "recipe": RECIPE, "student": {"kind": "digits_net"}}
    base = {**STUDY, "export": None, "seeds": [0, 1]}
    alone = opened({**base, "methods": [entry]})
    many = opened({**base, "methods": [{**entry, "teacher_seeds": "all"}]})
    for seed in (0, 1):
        cells = [
            next(c for c in s.plan.cells if c.labels["method"] == "taught" and c.labels["seed"] == seed)
            for s in (alone, many)
        ]
        one, several = (s.plan.steps[c.model_key].spec for s, c in zip((alone, many), cells, strict=True))
        dense = {c.labels["seed"]: c.model_key for c in many.plan.cells if c.labels["method"] == "dense"}
        assert one["parents"] == {"parent": dense[seed]}
        assert several["parents"] == {"parent": dense[seed], "teacher": dense[seed], "teacher_1": dense[1 - seed]}
    assert not many.run().failed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": {"kind": "qat"}}, "recipe is missing; qat trains"),
        ({"method": {"kind": "ptq"}, "recipe": RECIPE}, "ptq does not train; leave its recipe out"),
        ({"method": {"kind": "ptq"}, "teacher_seeds": "all"}, "'teacher_seeds' is for methods with a teacher"),
        (
            {"method": {"kind": "distillation"}, "recipe": RECIPE, "teacher_seeds": [0, 7]},
            "method 'x': teacher_seeds has 7; the seeds are (0,)",
        ),
        (
            {"method": {"kind": "distillation"}, "recipe": RECIPE, "teacher_seeds": [0, 0]},
            "teacher_seeds: name at least one seed, and each once",
        ),
        (
            {"method": {"kind": "distillation", "student_weight": 0, "teacher_weight": 0}, "recipe": RECIPE},
            "there would be nothing to learn",
        ),
        (
            {"method": {"kind": "filter_pruning", "calibration_draw": "tail"}, "recipe": RECIPE},
            "criterion l1 looks at no images",
        ),
    ],
)
def test_what_does_not_fit_a_method_is_refused(opened: Any, change: dict[str, Any], words: str) -> None:
    from tailkeep.errors import BadInput

    with pytest.raises(BadInput) as caught:
        opened({**STUDY, "methods": [{"name": "x", **change}]})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "child",
    [
        {"method": {"kind": "continue"}, "recipe": RECIPE},
        {"method": {"kind": "filter_pruning"}, "recipe": RECIPE},
        {"method": {"kind": "distillation"}, "recipe": RECIPE},
        {"method": {"kind": "ptq"}},
    ],
)
def test_nothing_starts_from_a_quantized_model(opened: Any, child: dict[str, Any]) -> None:
    from tailkeep.errors import BadInput

    parent = {"name": "int8", "method": INT8}
    with pytest.raises(BadInput, match="method 'x' starts from 'int8', which is quantized; quantization comes last"):
        opened({**STUDY, "methods": [parent, {"name": "x", "parent": "int8", **child}]})


def test_what_is_known_to_go_wrong_is_said_before_the_run(opened: Any, cli: Any, tmp_path: Path) -> None:
    trap = {"kind": "qat_distillation", "weight_bits": 3, "weights": "dorefa", "activations": "clip", "temperature": 5}
    methods = [
        {"name": "taught", "method": trap, "recipe": RECIPE},
        {"name": "sparse", "method": {"kind": "weight_pruning", "ratio": 0.5}, "recipe": RECIPE},
        {"name": "on", "parent": "sparse", "method": {"kind": "continue"}, "recipe": RECIPE},
    ]
    within = {"kind": "performance_weighted", "pruning": methods[1]["method"]}
    nested = opened({**STUDY, "export": None, "methods": [{**methods[1], "method": within}, methods[2]]})
    assert [warning.partition(":")[0] for warning in nested.resolved.warnings] == ["on"]
    study = opened({**STUDY, "export": None, "methods": methods})
    assert [warning.partition(":")[0] for warning in study.resolved.warnings] == ["taught", "on"]
    assert set(study.resolved.warnings) <= set(study.summary()["notes"])
    done = cli("run", tmp_path / "study.yaml", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "warning: taught: a teacher at temperature 5 over 3-bit weights is a published trap" in done.stderr
    assert "warning: on: training on from 'sparse' fills its zeros again" in done.stderr


def test_a_damaged_file_is_made_again(export: Any, study: Study, tmp_path: Path) -> None:
    cell = next(c for c in study.plan.cells if c.labels["method"] == "pruned")
    path = study.store.file("export", str(cell.export_key), "model.onnx")
    whole = path.read_bytes()
    path.write_bytes(b"no" + whole[2:])
    done = export("--method", "pruned", "--out", tmp_path / "m.onnx")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "m.onnx").read_bytes() == whole == path.read_bytes()


def test_a_place_that_cannot_be_written_is_refused(export: Any, tmp_path: Path) -> None:
    refused = export("--method", "pruned", "--out", tmp_path)
    assert refused.returncode == 2
    assert "is a folder; name a file in it" in refused.stderr
    (tmp_path / "file").write_text("")
    refused = export("--method", "pruned", "--out", tmp_path / "file" / "m.onnx")
    assert refused.returncode == 2
    assert "cannot be written" in refused.stderr


def test_notes_of_a_measurement_name_methods() -> None:
    from tailkeep.study.plan import Measure
    from tailkeep.study.results import _latency_notes

    measure = Measure("k", {}, {"dense": "dense", "m1": "pruned"})
    note = "m1 at batch 1 is noisy: half of its rounds span 12% of the median"
    record = {"notes": [note, "the machine was busy"], "timings": [{}] * 6}
    assert _latency_notes(measure, record) == [
        "Latency: the machine was busy",
        "Latency: pruned at batch 1 is noisy: half of its rounds span 12% of the median",
    ]
    found = _latency_notes(measure, {**record, "notes": [note] * 4})
    assert len(found) == 1
    assert "4 of 6 timings are noisy" in found[0]
