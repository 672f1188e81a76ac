"""``tailkeep audit`` from its words to its exit code and files; the audit itself is put in place by hand."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import yaml

from tailkeep import cli
from tailkeep.auditing import files
from tailkeep.auditing.request import AuditRequest
from tailkeep.auditing.result import Audit
from tailkeep.cli_audit import audit, register

ROOT = Path(__file__).parents[2]
OPEN = ("drop", "dog", 500, 12, 6, "cannot tell", 3345)
KEPT = ("drop", "owl", 500, 2, 12, "kept", None)
FILES = ("--baseline", "dense.csv", "--candidate", "pruned.csv")


class Pretended(Audit):
    """An audit without figures to draw."""

    def write_report(self, out: Path | str) -> Path:
        return Path(out) / "report.html"


class Ran:
    """What a call of the command did: exit code, and the request that reached the audit (None: none did)."""

    def __init__(self) -> None:
        self.code: int | str | None = None
        self.request: AuditRequest | None = None


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, make_analysis: Any, tmp_path: Path) -> Any:
    if not any(command.callback is audit for command in cli.app.registered_commands):
        register(cli.app)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments: str, units: tuple[Any, ...] = ()) -> Ran:
        ran = Ran()

        def audit_files(request: AuditRequest, progress: Any = None) -> Any:
            ran.request = request
            return Pretended(make_analysis(*units), pd.DataFrame())

        monkeypatch.setattr(files, "audit_files", audit_files)
        with pytest.raises(SystemExit) as left:
            cli.main(["audit", *arguments])
        ran.code = left.value.code
        return ran

    return call


@pytest.mark.parametrize(("units", "code"), [((), 1), ((KEPT,), 0), ((OPEN, KEPT), 5)])
def test_the_exit_code_is_the_decision(run: Any, units: Any, code: int, capsys: Any) -> None:
    assert run(*FILES, units=units).code == code
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith({1: "FAIL", 0: "PASS", 5: "CANNOT TELL"}[code])


def test_every_option_reaches_the_request(run: Any, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("confidence: 0.9\n", encoding="utf-8")
    ran = run(
        *("--baseline", "d0.csv", "--baseline", "d1.csv", "--data", "images", "--model-code", "m.py:make"),
        *("--candidate", "int8=a.onnx", "--candidate", "pruned=p0.csv", "--candidate", "int8=b.onnx"),
        *("--candidate", "pruned=p1.csv", "--max-class-drop", "1.5", "--policy", "policy.yaml"),
        *("--label-column", "y", "--prediction-column", "yhat", "--id-column", "key", "--group", "site"),
        *("--group", "camera", "--scores", "logits", "--class-names", "names.txt", "--train-counts", "counts.csv"),
        *("--threshold", "0.4", "--mean", "0.5,0.4,0.3", "--std", "0.2,0.2,0.2", "--image-size", "32x48"),
        *("--layout", "nhwc", "--resamples", "500", "--seed", "7", "--split", "val", "--allow-bad", "3"),
        *("--threads", "5", "--model-code", "int8=m.py:small", "--max-false-positive-rise", "3"),
    )
    assert ran.code == 1
    assert ran.request == AuditRequest(
        baselines=(Path("d0.csv"), Path("d1.csv")),
        candidates=(("int8", (Path("a.onnx"), Path("b.onnx"))), ("pruned", (Path("p0.csv"), Path("p1.csv")))),
        data=Path("images"), model_code="m.py:make", max_class_drop=1.5, confidence=None, policy=Path("policy.yaml"),
        label_column="y", prediction_column="yhat", id_column="key", group_columns=("site", "camera"), scores="logits",
        class_names=Path("names.txt"), train_counts=Path("counts.csv"), threshold=0.4, mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.2, 0.2), image_size=(32, 48), layout="nhwc", resamples=500, seed=7,
        split="val", allow_bad=3, threads=5, candidate_code=(("int8", "m.py:small"),),
        max_false_positive_rise=3,
    )  # fmt: skip
    assert [ran.request.code_of(Path(name)) for name in ("d0.csv", "b.onnx")] == ["m.py:make", "m.py:small"]
    policy = ran.request.read_policy()
    assert (policy.max_class_drop, policy.confidence) == (1.5, 0.9)


def test_the_defaults_are_the_documented_ones(run: Any) -> None:
    request = run(*FILES).request
    assert request.candidates == (("pruned", (Path("pruned.csv"),)),)
    assert (request.read_policy().max_class_drop, request.read_policy().confidence) == (2, 0.95)
    assert (request.resamples, request.seed, request.scores, request.image_size) == (10_000, 0, "auto", None)


def test_names_of_candidates(run: Any, tmp_path: Path) -> None:
    (tmp_path / "lr=0.1.csv").write_text("", encoding="utf-8")
    given = ("--baseline", "d.csv", "--candidate", "a/p.csv", "--candidate", "b/p.csv", "--candidate", "lr=0.1.csv")
    assert [name for name, _ in run(*given).request.candidates] == ["a/p.csv", "b/p.csv", "lr=0.1"]


def test_all_outputs_come_from_one_run(run: Any, tmp_path: Path, capsys: Any) -> None:
    ran = run(
        *FILES, "--output", "json=out/a.json", "--output", "sarif=a.sarif", "--output", "junit=a.xml",
        "--output", "text=a.txt", "--report", "page",
    )  # fmt: skip
    assert ran.code == 1
    assert json.loads((tmp_path / "out" / "a.json").read_text())["exit_code"] == 1
    assert json.loads((tmp_path / "a.sarif").read_text())["version"] == "2.1.0"
    assert ElementTree.parse(tmp_path / "a.xml").getroot().tag == "testsuites"
    shown = capsys.readouterr()
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == shown.out
    assert "report.html" in shown.err


def test_a_format_is_printed_and_written_without_a_name(run: Any, tmp_path: Path, capsys: Any) -> None:
    run(*FILES, "--format", "json", "--output", "./a=b.json")
    shown = capsys.readouterr().out
    assert json.loads(shown)["decision"] == "fail"
    assert (tmp_path / "a=b.json").read_text() == shown


def test_verbose_reaches_the_text(run: Any, capsys: Any) -> None:
    run(*FILES)
    assert "g mean" not in capsys.readouterr().out
    run(*FILES, "--verbose")
    assert "g mean" in capsys.readouterr().out


def test_a_narrow_encoding_keeps_the_sign_of_a_loss(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert run(*FILES).code == 1
    assert b"-7.0 [-9.0, -5.0]" in raw.getvalue()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--baseline", "d.csv"), "--candidate"),
        ((*FILES, "--scores", "odds"), "odds"),
        ((*FILES, "--max-class-drop", "101"), "--max-class-drop 101"),
        ((*FILES, "--confidence", "0.2"), "--confidence 0.2"),
        ((*FILES, "--policy", "none.yaml"), "none.yaml: there is no such file"),
        ((*FILES, "--mean", "0.5"), "--mean and --std go together"),
        ((*FILES, "--mean", "a,b", "--std", "1,1"), "--mean a,b"),
        ((*FILES, "--mean", "0.5", "--std", "0"), "--std is above 0"),
        ((*FILES, "--image-size", "0"), "--image-size 0x0"),
        ((*FILES, "--image-size", "big"), "--image-size big"),
        ((*FILES, "--threshold", "1"), "--threshold 1"),
        ((*FILES, "--resamples", "0"), "--resamples"),
        ((*FILES, "--group", "a", "--group", "a"), "stands twice"),
        ((*FILES, "--output", "json="), "name a file"),
        ((*FILES, "--output", "a.txt", "--output", "json=a.txt"), "written already"),
        ((*FILES, "--output", "."), "name a file"),
        ((*FILES, "--candidate", "=x.csv"), "write it as NAME=FILE"),
        ((*FILES, "--candidate", "a=x.csv", "--candidate", "a=y.csv"), "2 files for 1 baselines"),
        ((*FILES, "--baseline", "dense.csv"), "a file stands twice"),
        (("--baseline", "d.onnx", "--candidate", "p.csv"), "--data PATH"),
        (("--baseline", "d.csv", "--candidate", "p.safetensors", "--data", "x"), "--model-code"),
    ],
)
def test_words_that_do_not_fit_are_bad_input(run: Any, arguments: Any, words: str, capsys: Any) -> None:
    ran = run(*arguments)
    assert ran.code == 2
    assert ran.request is None, "nothing was computed"
    assert words in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_place_that_cannot_be_written_is_known_before(run: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert run(*FILES, "--output", "file/a.txt").code == 2
    assert "cannot be made" in capsys.readouterr().err
    assert run(*FILES, "--report", "file").request is None


def test_help_teaches_and_is_light(run: Any, capsys: Any) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["audit", "--help"])
    assert left.value.code in (0, None)
    text = " ".join(capsys.readouterr().out.split())
    for words in ("What is compared", "The gate", "Exit codes: 0", "5 cannot tell", "Example: tailkeep audit"):
        assert words in text
    code = "import sys, tailkeep.cli_audit; sys.exit(bool({'torch', 'numpy', 'pandas', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("code", "mode", "wanted"), [(0, "", 0), (1, "", 1), (5, "", 5), (5, "warn", 0), (70, "", 70)])
def test_the_shell_example_ends_as_it_says(tmp_path: Path, code: int, mode: str, wanted: int) -> None:
    fake = tmp_path / "tailkeep"
    fake.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/given"\nexit {code}\n', encoding="utf-8")
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "BASELINE": "a b.csv", "CANDIDATE": "p=c.csv"}
    if mode:
        environment["ON_CANNOT_TELL"] = mode
    done = subprocess.run(["bash", str(ROOT / "examples/ci/audit.sh"), "--verbose"], env=environment, check=False)
    assert done.returncode == wanted
    given = (tmp_path / "given").read_text()
    assert "--baseline a b.csv --candidate p=c.csv --output" in given, (
        "without a limit of its own it leaves that of a policy alone"
    )
    assert "--verbose" in given


def test_the_examples_pass_a_limit_only_where_one_is_set(tmp_path: Path) -> None:
    fake = tmp_path / "tailkeep"
    fake.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/given"\n', encoding="utf-8")
    fake.chmod(0o755)
    base = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "BASELINE": "a.csv", "CANDIDATE": "c.csv"}
    steps = yaml.safe_load((ROOT / "examples/ci/github-actions.yml").read_text(encoding="utf-8"))["jobs"]["audit"][
        "steps"
    ]
    (script,) = [step["run"] for step in steps if step.get("id") == "audit"]
    commands = (["bash", str(ROOT / "examples/ci/audit.sh")], ["bash", "-c", script])
    for command in commands:
        for limits, wanted in (
            ({"POLICY": "p.yaml", "MAX_CLASS_DROP": ""}, "--policy p.yaml --output"),
            ({"POLICY": "", "MAX_CLASS_DROP": "3"}, "--candidate c.csv --max-class-drop 3 --output"),
        ):
            environment = {**base, **limits, "GITHUB_OUTPUT": os.devnull, "GITHUB_STEP_SUMMARY": os.devnull}
            subprocess.run(command, env=environment, check=True, cwd=tmp_path, capture_output=True)
            assert wanted in (tmp_path / "given").read_text()


@pytest.mark.parametrize(("lost", "n", "code"), [(0, 2000, 0), (200, 2000, 1), (1, 60, 5)])
def test_from_files_to_exit_code(run: Any, tmp_path: Path, capsys: Any, lost: int, n: int, code: int) -> None:
    """The whole way, nothing put in place: two files of predictions in, the decision and the SARIF place out."""
    labels = np.arange(n) % 2
    after = labels.copy()
    after[1 : 2 * lost : 2] = 0  # images of class "rare" that the candidate gets wrong
    for name, predicted in (("dense", labels), ("pruned", after)):
        words = pd.DataFrame({"label": labels, "prediction": predicted}).replace({0: "common", 1: "rare"})
        words.to_csv(tmp_path / f"{name}.csv", index=False)
    with pytest.raises(SystemExit) as left:
        cli.main(["audit", *FILES, "--resamples", "50", "--output", "sarif=a.sarif", "--output", "json=a.json"])
    shown = capsys.readouterr().out
    assert left.value.code == code, shown
    results = json.loads((tmp_path / "a.sarif").read_text())["runs"][0]["results"]
    names = {result["properties"]["name"] for result in results}
    assert names == {0: set(), 1: {"rare"}, 5: {"common", "rare"}}[code]
    places = {result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for result in results}
    assert places <= {"pruned.csv"}
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["exit_code"] == code
    assert found["study"]["name"] == "audit"
    if code == 1:
        assert 'class "rare" loses 20 percentage points of recall, 2 allowed' in shown.splitlines()[0]
