"""Results travel light: pieces come together to the bits of the whole, and nothing that is amiss is taken."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tailkeep.errors import BadInput
from tailkeep.files import write_json
from tailkeep.frame import COLUMNS
from tailkeep.study import results
from tailkeep.study.engine import needed
from tailkeep.study.gc import collect
from tailkeep.study.imported import FOLDER, brought_notes, imported, remaining
from tailkeep.study.runner import Study
from tailkeep.study.store import Store
from tailkeep.study.travel import check_results, export_results, import_results
from tailkeep.study.travel_archive import unpack
from tailkeep.study.travel_frame import expected_rows, losses_of
from tailkeep.study.verify import verify
from travel_cases import command, content_of, flip, names, opened, ran, tiny, write


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("travel")


@pytest.fixture(scope="module")
def whole(home: Path) -> Study:
    return ran(home, "whole", [0, 1])


@pytest.fixture(scope="module")
def pieces(home: Path) -> tuple[Path, Path]:
    """The results files of two machines that ran a seed each."""
    found = []
    for seed in (0, 1):
        path = home / f"seed{seed}.results.zip"
        export_results(ran(home, f"machine{seed}", [seed]), path)
        found.append(path)
    return found[0], found[1]


def test_pieces_come_together_to_the_whole(whole: Study, pieces: tuple[Path, Path], tmp_path: Path) -> None:
    together = opened(tmp_path, "together", [0, 1])
    import_results(list(pieces), together.store)
    assert results.result_hash(together.plan, together.store) == results.result_hash(whole.plan, whole.store)
    frame, analysis = together.analyse()
    expected, other = whole.analyse()
    pd.testing.assert_frame_equal(frame, expected, check_exact=True)
    assert {"other_seed", "teacher", "student_alone", "dense", "self"} <= set(frame["reference"])
    assert set(frame["split"]) == {"test", "validation"}
    pd.testing.assert_frame_equal(
        results.cell_sizes(together.plan, together.store, names(together)),
        results.cell_sizes(whole.plan, whole.store, names(whole)),
    )
    assert [v.sentence for v in analysis.verdicts] == [v.sentence for v in other.verdicts]
    note = next(note for note in analysis.notes if note.startswith("Imported: "))
    assert f"{len(whole.plan.cells)} of {len(whole.plan.cells)} cells, from 2 results files (torch" in note
    assert not any(note.startswith("Not finished") for note in analysis.notes)
    assert not together.todo
    assert not together.run().done
    own = replace(together, options=replace(together.options, own=True))
    assert set(own.todo) == set(needed(whole.plan, together.store)), "asked to, it does all of it here"
    assert not list((tmp_path / "together").rglob("*.safetensors"))
    assert analysis.provenance["environment"]["torch"] == other.provenance["environment"]["torch"]


def test_half_imported_half_run_is_the_whole(whole: Study, pieces: tuple[Path, Path], tmp_path: Path) -> None:
    mixed = ran(tmp_path, "mixed", [0])
    import_results([pieces[1]], mixed.store)
    both = opened(tmp_path, "mixed", [0, 1])
    frame = results.cell_frame(both.plan, both.store, names(both))
    pd.testing.assert_frame_equal(frame, results.cell_frame(whole.plan, whole.store, names(whole)), check_exact=True)
    assert results.result_hash(both.plan, both.store) == results.result_hash(whole.plan, whole.store)
    again, of_whole = tmp_path / "again.results.zip", tmp_path / "whole.results.zip"
    facts, expected = export_results(both, again), export_results(whole, of_whole)
    assert facts["result_hash"] == expected["result_hash"], "what was imported is exported again"
    assert check_results(again)["cells_done"] == len(whole.plan.cells)


def test_equal_results_give_equal_bytes(home: Path, pieces: tuple[Path, Path], tmp_path: Path) -> None:
    study = opened(home, "machine0", [0])
    facts = export_results(study, tmp_path / "again.results.zip")
    assert (tmp_path / "again.results.zip").read_bytes() == pieces[0].read_bytes()
    assert facts["bytes_per_cell"] < 4096
    members, _ = unpack(pieces[0])
    assert not any(name.endswith((".safetensors", ".npz")) for name in members)
    with np.load(pieces[0], allow_pickle=False) as arrays:  # numpy reads the file as it is
        assert {arrays[name].dtype.str for name in arrays.files if "-" in name and "ids" not in name} == {"|u1"}


def test_a_store_of_imports_alone_is_verified_and_never_collected(pieces: tuple[Path, Path], tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    import_results(list(pieces), store)
    found = verify(store.root)
    assert (found.steps, found.records, found.imports, found.damages) == (0, 0, 2, [])
    with pytest.raises(BadInput, match="imported results alone"):
        collect(store.root)
    path = sorted((store.root / FOLDER).iterdir())[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (damage,) = verify(store.root).damages
    assert (damage.kind, damage.moved) == ("import", None)
    assert str(path) in damage.faults[0]
    assert path.exists()


def test_importing_twice_changes_nothing(pieces: tuple[Path, Path], tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert not import_results([pieces[0]], store)[0]["already_there"]
    before = {path: path.stat().st_mtime_ns for path in (store.root / FOLDER).iterdir()}
    assert import_results([pieces[0]], store)[0]["already_there"]
    assert import_results([pieces[0], pieces[0]], store)[1]["already_there"]
    assert {path: path.stat().st_mtime_ns for path in (store.root / FOLDER).iterdir()} == before
    assert len(before) == 1


def test_a_run_leaves_out_what_is_imported_and_trains_what_others_descend_from(
    pieces: tuple[Path, Path], tmp_path: Path
) -> None:
    study = opened(tmp_path, "store", [0, 1])
    everything = needed(study.plan, study.store)
    import_results([pieces[0]], study.store)
    left = needed(remaining(study.plan, study.store), study.store)
    assert set(left) < set(everything)
    assert all(study.plan.steps[key].spec["seed"] == 1 for key in left if "seed" in study.plan.steps[key].spec)
    assert len(left) == len(everything) / 2


def test_a_model_that_others_descend_from_is_still_trained(
    home: Path, pieces: tuple[Path, Path], tmp_path: Path
) -> None:
    few = opened(home, "machine0", [0], methods=tiny([0])["methods"][:1])
    export_results(few, tmp_path / "few.results.zip")
    study = opened(tmp_path, "store", [0])
    import_results([tmp_path / "few.results.zip"], study.store)
    left = needed(remaining(study.plan, study.store), study.store)
    pruned = next(cell for cell in study.plan.cells if cell.labels["method"] == "pruned")
    assert pruned.predict_key not in left
    assert pruned.model_key in left, "the quantized model descends from it"
    assert not study.run().failed
    assert study.store.status("predict", pruned.predict_key) == "missing", "what is imported is not done again"
    assert results.result_hash(study.plan, study.store) == content_of(pieces[0]).study.result_hash


def test_what_failed_elsewhere_is_told(home: Path, tmp_path: Path) -> None:
    method = tiny([0])["methods"][0]
    failing = {**method, "recipe": {**method["recipe"], "lr": 1e30}}
    study = ran_with_failures(opened(tmp_path, "elsewhere", [0], methods=[failing], controls={"continued": False}))
    facts = export_results(study, tmp_path / "failed.results.zip")
    assert facts["steps_failed"] == 2
    assert facts["cells_done"] == 2
    here = opened(tmp_path, "here", [0], methods=[failing], controls={"continued": False})
    import_results([tmp_path / "failed.results.zip"], here.store)
    failures = results.cell_failures(here.plan, here.store)
    pd.testing.assert_frame_equal(failures, results.cell_failures(study.plan, study.store))
    assert set(failures["reason"]) == {"nan"}
    assert results.result_hash(here.plan, here.store) == results.result_hash(study.plan, study.store)
    assert {here.plan.steps[key].kind for key in needed(remaining(here.plan, here.store), here.store)} >= {"transform"}


def ran_with_failures(study: Study) -> Study:
    assert study.run().failed
    return study


def test_a_contradiction_names_both_sources(home: Path, pieces: tuple[Path, Path], tmp_path: Path) -> None:
    content = content_of(pieces[0])
    group = next(name for name, group in content.groups.items() if group.split == "test")
    changed = content.guesses[group].copy()
    wrong = np.flatnonzero(changed[0] != content.labels[group])[0]
    changed[0, wrong] = next(c for c in range(10) if c not in (changed[0, wrong], content.labels[group][wrong]))
    losses = losses_of(content)
    content.guesses[group] = changed
    rows = expected_rows(content, losses)
    content.frame = {name: [row[name] for row in rows] for name in COLUMNS}
    forged = write(tmp_path / "forged.results.zip", content)
    check_results(forged)  # it is sound in itself

    store = Store(tmp_path / "store")
    import_results([pieces[0]], store)
    before = sorted((store.root / FOLDER).iterdir())
    with pytest.raises(
        BadInput, match=r"(?s)forged.results.zip .*study 'tiny', torch.* and .*/imported/.* contradict"
    ) as e:
        import_results([pieces[1], forged], store)
    assert "1 of 500 predicted labels differ, the first of image 'digits/" in str(e.value)
    assert sorted((store.root / FOLDER).iterdir()) == before, "none of them is taken"
    with pytest.raises(BadInput, match=r"(?s)forged.results.zip .* and .*machine0 \(predicted there\) contradict"):
        import_results([forged], Store(home / "machine0"))


def test_other_data_of_the_same_study_is_refused(pieces: tuple[Path, Path], tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    data = {"digits": {"train": "a" * 64, "test": "b" * 64}}
    write_json(store.study_file("tiny"), {"name": "tiny", "data": data})
    with pytest.raises(BadInput, match=r"(?s)seed0.*study 'tiny' ran on other data than in .*tiny.json: digits"):
        import_results([pieces[0]], store)
    with pytest.raises(BadInput, match="holds results of study 'tiny', not of 'other'"):
        import_results([pieces[0]], Store(tmp_path / "empty"), "other")
    assert not (tmp_path / "empty" / FOLDER).exists()


def test_results_of_other_settings_are_said_not_to_count(pieces: tuple[Path, Path], tmp_path: Path) -> None:
    study = opened(tmp_path, "store", [0], imbalance=[{"kind": "exponential", "ratio": 5, "n_max": 30}])
    import_results([pieces[0]], study.store)
    notes = brought_notes(study.plan, study.store)
    assert len(notes) == 1
    assert f"Imported, but none of its {check_results(pieces[0])['cells']} cells is one of this study's" in notes[0]
    assert remaining(study.plan, study.store) is study.plan


def test_a_damaged_import_does_not_count_and_can_be_imported_again(
    home: Path, pieces: tuple[Path, Path], tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    import_results([pieces[0]], store)
    path = next((store.root / FOLDER).iterdir())
    whole_file = path.read_bytes()
    path.write_bytes(flip(whole_file, len(whole_file) // 2))
    assert not imported(store).sources
    plan = opened(home, "machine0", [0]).plan
    assert "An imported file does not count" in brought_notes(plan, store)[0]
    assert not import_results([pieces[0]], store)[0]["already_there"]
    assert path.read_bytes() == whole_file
    assert len(imported(store).sources) == 1


@pytest.mark.usefixtures("whole")  # whose study file it reads
def test_the_commands_speak(
    home: Path, pieces: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = len(opened(home, "machine0", [0]).plan.cells)
    code, out, told = command(capsys, "check-results", pieces[0])
    assert (code, told) == (0, "")
    assert f"study tiny, {count} of {count} cells" in out
    assert "a finished cell" in out
    assert "not checked, since it needs the data or the weights" in out
    code, out, _ = command(capsys, "check-results", pieces[0], "--json")
    assert code == 0
    assert json.loads(out)["ok"] is True
    (tmp_path / "bad.results.zip").write_bytes(b"PK")
    code, out, _ = command(capsys, "check-results", tmp_path / "bad.results.zip", "--json")
    assert code == 2
    assert "is not whole" in json.loads(out)["fault"]

    store = tmp_path / "store"
    code, out, _ = command(capsys, "import-results", *pieces, "--store", store)
    assert code == 0
    assert out.count("imported: seed") == 2
    assert "predicted on torch" in out
    code, out, _ = command(capsys, "status", "--store", store)
    assert code == 0
    assert f"imported: {count} of {count} cells of study tiny" in out
    study = home / "whole.yaml"
    code, out, _ = command(capsys, "plan", study, "--store", store, "--json")
    assert json.loads(out)["cells_imported"] == json.loads(out)["cells"] == 2 * count
    code, out, _ = command(capsys, "report", study, "--store", store, "--out", tmp_path / "out", "--json")
    assert code == 0
    facts = json.loads(out)
    assert any(note.startswith(f"Imported: {2 * count} of {2 * count} cells") for note in facts["notes"])
    code, out, _ = command(
        capsys, "export-results", study, "--store", store, "--out", tmp_path / "all.results.zip", "--json"
    )
    assert code == 0
    assert json.loads(out)["result_hash"] == facts["result_hash"]


def test_nothing_finished_and_places_that_cannot_be_written_are_told(home: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no cell of study 'tiny' is finished"):
        export_results(opened(tmp_path, "empty", [0]), tmp_path / "x.results.zip")
    study = opened(home, "machine0", [0])
    with pytest.raises(BadInput, match="is a folder; name a file in it"):
        export_results(study, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written"):
        export_results(study, tmp_path / "file" / "x.results.zip")


@pytest.mark.slow
def test_facts_of_exported_files_travel(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    few = {"methods": tiny([0])["methods"][:1], "export": {"latency": True, "batches": [1], "rounds": 5}}
    study = opened(tmp_path, "machine", [0], controls={"continued": False}, **few)
    assert not study.run().failed
    export_results(study, tmp_path / "files.results.zip")
    here = opened(tmp_path, "here", [0], controls={"continued": False}, **few)
    import_results([tmp_path / "files.results.zip"], here.store)
    sizes = results.cell_sizes(here.plan, here.store, names(here))
    pd.testing.assert_frame_equal(sizes, results.cell_sizes(study.plan, study.store, names(study)))
    assert sizes["agreement"].notna().sum() == 2
    assert results.result_hash(here.plan, here.store) == results.result_hash(study.plan, study.store)
    assert not needed(remaining(here.plan, here.store), here.store), "nor is a file measured that is not here"
    here.analyse()
    again = export_results(here, tmp_path / "again.results.zip")
    assert again["result_hash"] == results.result_hash(study.plan, study.store)
    content = content_of(tmp_path / "files.results.zip")
    place = next(i for i, cell in enumerate(content.cells) if cell.file is not None)
    file = content.cells[place].file
    assert file is not None
    content.cells[place] = content.cells[place].model_copy(update={"file": file.model_copy(update={"agreement": 0.5})})
    with pytest.raises(BadInput, match="its exported file agrees on"):
        check_results(write(tmp_path / "forged.results.zip", content))
