"""What people really give us, seen from the command line: exit code 2, file:line, cause and fix, no traceback."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

STUDY = """\
name: mine
data:
  source: {kind: digits}
imbalance:
  - {kind: exponential, ratio: 10, n_max: 60}
balanced: none
models:
  - model: {kind: digits_net}
recipe:
  epochs: 1
  batch_size: 32
  lr: 0.1
  precision: float32
methods:
  - name: pruned
    method: {kind: filter_pruning, ratio: 0.5}
    recipe: {epochs: 1, batch_size: 32, lr: 0.01, precision: float32}
seeds: [0]
"""


def _refused(result: Any, *words: str, line: int | None = None) -> None:
    assert result.returncode == 2, (result.returncode, result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    flat = " ".join(result.stderr.split())
    for word in words:
        assert word in flat, f"{word!r} is not in: {flat}"
    if line is not None:
        assert f"study.yaml:{line}:" in result.stderr, result.stderr


@pytest.fixture
def plan(cli: Any, tmp_path: Path) -> Any:
    def run(text: str, *options: str) -> Any:
        (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
        return cli("plan", "study.yaml", *options)

    return run


def test_the_study_itself_is_fine(plan: Any) -> None:
    assert plan(STUDY).returncode == 0


def test_01_numbers_that_yaml_reads_as_text(plan: Any, cli: Any) -> None:
    """YAML 1.1 reads 1e-1 as a string; it is taken as the number that it is, and has the number's key."""
    written = plan(STUDY.replace("lr: 0.1", "lr: 1e-1"), "--json")
    assert written.returncode == 0, written.stderr
    from tailkeep.study.spec import check_study
    from tailkeep.yaml_reader import parse_yaml

    assert check_study(parse_yaml(STUDY.replace("lr: 0.1", "lr: 1e-1"))) == check_study(parse_yaml(STUDY))


def test_02_names_that_yaml_reads_otherwise(plan: Any) -> None:
    _refused(plan(STUDY.replace("name: pruned", "name: no")), 'put it in quotes: "no"', line=15)
    order = STUDY.replace("  source: {kind: digits}", "  source: {kind: digits}\n  class_order: [no, 012, a]")
    result = plan(order)
    _refused(result, 'put it in quotes: "no"', 'put it in quotes: "012"', line=4)
    _refused(plan(STUDY.replace("seeds: [0]", "seeds: [0]\nno: 1")), 'put it in quotes: "no"', line=19)


def test_03_a_key_that_stands_twice(plan: Any) -> None:
    _refused(plan(STUDY.replace("  lr: 0.1\n", "  lr: 0.1\n  lr: 0.2\n")), "'lr' stands twice", "line 12", line=13)


def test_04_unknown_keys_and_kinds(plan: Any) -> None:
    _refused(plan(STUDY.replace("batch_size: 32\n", "batchsize: 32\n")), "did you mean 'batch_size'?", line=11)
    _refused(
        plan(STUDY.replace("kind: exponential", "kind: exponentail")), "did you mean 'exponential'?", "step", line=5
    )
    _refused(plan(STUDY.replace("filter_pruning, ratio", "filter_pruning, rate")), "did you mean 'ratio'?", line=16)
    _refused(plan(STUDY.replace("methods:", "method:")), "did you mean 'methods'?", line=14)
    told = plan(STUDY.replace("n_max: 60", "nmax: 60"))
    _refused(told, "did you mean 'n_max'?", line=5)
    assert "at least 1 item" not in told.stderr, "which the fault in the list brought with it"
    _refused(plan(STUDY.replace("{kind: digits_net}", "{depth: 20}")), "'kind' is missing", line=8)


def test_04_wrong_values_name_the_value(plan: Any) -> None:
    _refused(plan(STUDY.replace("ratio: 0.5", "ratio: 1.5")), "less than 1", "1.5", line=16)
    _refused(plan(STUDY.replace("epochs: 1\n", "epochs: many\n")), "valid number", "many", line=10)
    _refused(plan(STUDY.replace("  epochs: 1\n", "")), "either 'epochs' or 'steps'", line=9)
    _refused(plan(STUDY.replace("{kind: digits_net}", "{kind: resnet, depth: 21}")), "6n + 2", line=8)
    _refused(plan("just text"), "a study file is a mapping", line=1)
    _refused(plan("name: [unclosed"), "not valid YAML", line=1)


def test_04_a_word_in_the_place_of_settings_or_of_a_list(plan: Any) -> None:
    _refused(plan(STUDY, "--set", "loss=balanced_softmax"), "loss: expected settings, such as {kind: balanced_softmax}")
    _refused(plan(STUDY, "--set", "seeds=3"), "seeds: expected a list, such as [3] (given: 3)")


def test_05_missing_teachers_and_cycles(plan: Any) -> None:
    with_teacher = STUDY.replace("    method: {kind: filter", "    teacher: prunde\n    method: {kind: filter")
    _refused(plan(with_teacher), "teacher 'prunde' is missing", "did you mean 'pruned'?")
    cycle = STUDY.replace(
        "seeds:",
        "  - {name: b, parent: c, method: {kind: qat}, recipe: {epochs: 0}}\n"
        "  - {name: c, parent: b, method: {kind: qat}, recipe: {epochs: 0}}\nseeds:",
    )
    _refused(plan(cycle), "cycle: b -> c -> b")


def test_06_aliases(plan: Any) -> None:
    bomb = "a: &a [x, x]\nb: &b [*a, *a]\n" + STUDY
    _refused(plan(bomb), "anchors and aliases", line=1)


def test_07_a_grid_of_a_million_cells(plan: Any) -> None:
    ratios = "\n".join(f"  - {{kind: exponential, ratio: {2 + i / 100}, n_max: 60}}" for i in range(1000))
    grid = STUDY.replace("  - {kind: exponential, ratio: 10, n_max: 60}", ratios)
    result = plan(grid.replace("seeds: [0]", f"seeds: {list(range(500))}"))
    _refused(result, "1,000,000 cells", "hours", "GB of disk", "--yes")


def test_07_yes_goes_on(plan: Any) -> None:
    many = STUDY.replace("seeds: [0]", f"seeds: {list(range(5001))}")
    _refused(plan(many), "10,002 cells")
    allowed = plan(many, "--yes", "--json")
    assert allowed.returncode == 0, allowed.stderr
    assert json.loads(allowed.stdout)["cells"] >= 10_002


def test_15a_no_data_and_no_network(plan: Any, tmp_path: Path) -> None:
    study = STUDY.replace("kind: digits}", "kind: cifar10}").replace("digits_net", "resnet")
    (tmp_path / "empty").mkdir()
    _refused(plan(study, "--data-root", str(tmp_path / "empty")), "cifar-10-batches-py")
    _refused(plan(study, "--data-root", str(tmp_path / "absent")), "absent")


def test_15b_more_images_than_there_are(plan: Any) -> None:
    _refused(plan(STUDY.replace("n_max: 60", "n_max: 6000")), "6000", "largest possible")
    _refused(plan(STUDY.replace("ratio: 10", "ratio: 100")), "without an image", "largest possible ratio")
    full = STUDY.replace("balanced: none", "balanced: full").replace(
        "{kind: exponential, ratio: 10, n_max: 60}", "{kind: explicit, counts: [125, 9, 9, 9, 9, 9, 9, 9, 9, 9]}"
    )
    _refused(plan(full), "balanced: full needs 125 images", "balanced: none")


def test_22_a_nan_loss_fails_its_cell_and_the_others_go_on(cli: Any, tmp_path: Path) -> None:
    broken = STUDY.replace("seeds:", (
        "  - name: too fast\n"
        "    method: {kind: continue}\n"
        "    recipe: {epochs: 3, batch_size: 32, lr: 1.0e+30, precision: float32}\nseeds:"
    ))  # fmt: skip
    (tmp_path / "study.yaml").write_text(broken, encoding="utf-8")
    result = cli("run", "study.yaml", "--workers", "1")
    assert result.returncode == 3, result.stderr
    verdict = json.loads((tmp_path / "tailkeep-results" / "mine" / "verdict.json").read_text())
    assert verdict["failures"] >= 1
    report = (tmp_path / "tailkeep-results" / "mine" / "report.html").read_text()
    assert "too fast" in report
    assert re.search(r"\bnan\b", report)
    again = cli("run", "study.yaml", "--workers", "1")
    assert again.returncode == 3
    assert "nan: the loss was no longer finite" in again.stdout
    status = json.loads(cli("status", "--json").stdout)
    assert status["studies"][0]["failed"] >= 1
    assert status["studies"][0]["done"] >= 2


def test_a_store_without_studies_and_a_file_that_is_not_there(cli: Any) -> None:
    _refused(cli("status"), "no study has run in this store yet")
    _refused(cli("run", "nothing.yaml"), "there is no such file")
    _refused(cli("run", "nothing.yaml", "--no-such-option"), "No such option")


def test_set_overrides_one_value(plan: Any) -> None:
    assert (
        json.loads(plan(STUDY, "--json", "--set", "seeds=[0, 1]").stdout)["cells"]
        == 2 * json.loads(plan(STUDY, "--json").stdout)["cells"]
    )
    _refused(plan(STUDY, "--set", "recipe.nothing=3"), "unknown key", "recipe.nothing")
    _refused(plan(STUDY, "--set", "methods.7.name=x"), "has no place 'methods.7.name'")
    _refused(plan(STUDY, "--set", "recipe"), "path.to.key=value")


def test_an_unexpected_error_is_never_read_as_a_verdict(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import tailkeep.study.display as display
    from tailkeep.cli import main

    def fail(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(display, "print_status", fail)
    with pytest.raises(SystemExit) as exit_info:
        main(["status"])
    assert exit_info.value.code == 70
    error = capsys.readouterr().err
    assert "unexpected RuntimeError: boom" in error
    assert "Traceback" not in error


def _open(tmp_path: Path, text: str, **options: Any) -> Any:
    from tailkeep.study.runner import Options, open_study

    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    return open_study(tmp_path / "study.yaml", Options(store=tmp_path / "store", **options))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seeds: [0]", "seeds: [0, 1]\nsubset_seed: 0\ntraining_seed: 0", "one and the same model"),
        ("{kind: exponential, ratio: 10, n_max: 60}", "{kind: natural}", "seeds 0 and 1 are the same model"),
        ("seeds: [0]", "seeds: [-1]", "greater than or equal to 0"),
        ("seeds: [0]", "seeds: [0]\nmargin: 200", "less than 100"),
        ("seeds: [0]", "seeds: [0]\ngroup_cuts: [100, 20]", "low <= high"),
        ("name: pruned", "name: dense KD", "belong to the references and controls"),
        ("{kind: digits_net}", "{kind: digits_net, width: 0.3}", "greater than or equal to 0.5"),
        ("balanced: none", "balanced: full", "is imported, so it has no balanced twin"),
    ],
)
def test_what_would_mislead_is_refused_before_compute(tmp_path: Path, old: str, new: str, words: str) -> None:
    from tailkeep.errors import BadInput

    text = STUDY.replace(old, new)
    if "natural" in new:
        text = text.replace("seeds: [0]", "seeds: [0, 1]\ntraining_seed: 0")
    if "balanced" in new:
        text = text.replace("{kind: digits_net}", "{kind: digits_net}\n    weights: w.safetensors")
    with pytest.raises(BadInput, match=re.escape(words)):
        _open(tmp_path, text)


def test_settings_of_the_machine_are_checked_before_compute(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    (tmp_path / "file").write_text("")
    _refused(cli("run", "study.yaml", "--out", "file"), "--out file: cannot be made")
    _refused(cli("plan", "study.yaml", "--store", "file"), "the store is a folder")
    _refused(cli("plan", "study.yaml", "--workers", "-1"), "--workers")
    _refused(cli("plan", "study.yaml", "--device", "banana"), "choose cpu, cuda or cuda:N")
    assert not list((tmp_path / "tailkeep-store").glob("t*/*"))


def test_a_change_by_set_stands_in_the_study_text_that_the_report_shows(tmp_path: Path) -> None:
    study = _open(tmp_path, STUDY, overrides=["recipe.epochs=2"])
    assert study.text == STUDY + "# changed by --set recipe.epochs=2\n"


def test_ctrl_c_says_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import tailkeep.cli as cli_module
    import tailkeep.study.display as display

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(display, "print_status", interrupt)
    monkeypatch.setattr(cli_module, "_leave", leave)
    with pytest.raises(SystemExit) as exit_info:
        cli_module.main(["status"])
    assert exit_info.value.code == 130
    assert "run the same command again" in capsys.readouterr().err
