"""What an audit is written as: the words, and that no name from outside breaks a format or steers a terminal."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pandas as pd
import pytest

from tailkeep.auditing.outputs import as_json, as_junit, as_sarif, as_text, exit_code
from tailkeep.auditing.outputs.sentences import need

SARIF_SUBSET = json.loads((Path(__file__).parent / "sarif_subset.json").read_text(encoding="utf-8"))
OPEN = (("drop", "dog", 500, 12, 6, "cannot tell", 3345), ("drop", "owl", 500, 2, 12, "kept", None))
KEPT = OPEN[1:]


def controls(text: str) -> set[str]:
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Cn")} - {"\n"}


def test_the_first_sentence_names_who_loses_how_much(make_analysis: Any) -> None:
    first = as_text(make_analysis()).splitlines()[0]
    assert first.startswith('FAIL: "pruned" is shown to break its limits:')
    assert 'class "cat" loses 7 percentage points of recall, 2 allowed' in first
    assert 'class "owl" has a recall of 60 %, 70 asked' in first
    assert "2 further checks cannot be told" in first


def test_cannot_tell_says_how_many_more_images(make_analysis: Any) -> None:
    text = as_text(make_analysis(*OPEN))
    assert text.startswith("CANNOT TELL:")
    assert 'class "dog" needs about 2,800 more test images' in text.splitlines()[0]
    assert '- class "dog" needs about 2,800 more test images (it has 500)' in text


def test_pass_says_so(make_analysis: Any) -> None:
    text = as_text(make_analysis(*KEPT))
    assert text.startswith('PASS: "pruned" keeps what it must')
    assert "Cannot tell" not in text


@pytest.mark.parametrize(
    ("n", "needed", "words"),
    [
        (500, 599, "needs about 99 more"),
        (500, 12_845, "needs about 12,000 more"),
        (500, 400, "lies too near the limit"),
        (500, None, "cannot be decided by more test images alone"),
        (0, 300, "has no test image"),
    ],
)
def test_what_an_open_check_needs(make_analysis: Any, n: int, needed: int | None, words: str) -> None:
    made = make_analysis(("drop", "dog", n, 0, 0, "cannot tell", needed))
    assert words in need(made.candidates[0].gate.results[0])
    assert words in as_text(made)


def test_the_table_holds_the_figures_that_decide(make_analysis: Any) -> None:
    row = next(line for line in as_text(make_analysis()).splitlines() if line.startswith("cat"))
    assert " ".join(row.split()) == "cat 1,000 500 80.0 → 73.0 −7.0 [−9.0, −5.0] < 0.001 0.60 loses more"
    owl = next(line for line in as_text(make_analysis()).splitlines() if line.startswith("owl"))
    assert owl.endswith("below floor")


def test_ten_classes_are_shown_and_verbose_shows_all(make_analysis: Any) -> None:
    units = tuple(("drop", f"class{i:02}", 500, i, 0, "kept", None) for i in range(30))
    made = make_analysis(*units, ("drop", "the one", 500, 40, 0, "broken", None))
    short, long = as_text(made), as_text(made, verbose=True)
    rows = [line for line in short.splitlines() if line.startswith(("class", "the one")) and "→" in line]
    assert len(rows) == 10
    assert rows[0].startswith("the one"), "what is broken comes first"
    assert rows[1].startswith("class29"), "then the largest loss"
    assert "10 of 31 classes" in short
    assert sum(line.startswith("class") and "→" in line for line in long.splitlines()) == 30
    assert "g mean" in long
    assert "g mean" not in short
    assert "read this interval with care" in long


def test_who_pays_and_what_flipped(make_analysis: Any) -> None:
    text = as_text(make_analysis())
    assert "70.0 → 66.5" in text
    assert "1 lost (right before, wrong now), 1 won, 0 from one wrong class to another" in text
    assert "note: the rows were paired by their ids" in text


def test_a_log_has_no_colours_and_no_wrapped_sentence(make_analysis: Any) -> None:
    plain = as_text(make_analysis())
    assert not controls(plain)
    assert all(line == line.rstrip() for line in plain.splitlines())
    assert "\x1b[1;31m" in as_text(make_analysis(), colour=True, width=100)
    assert max(map(len, as_text(make_analysis(), width=100).splitlines())) <= 100


def test_several_candidates_and_the_worst_exit_code(make_analysis: Any) -> None:
    failed, open_, kept = make_analysis(), make_analysis(*OPEN), make_analysis(*KEPT)
    assert (exit_code(failed), exit_code(open_), exit_code(kept)) == (1, 5, 0)
    both = replace(kept, candidates=(kept.candidates[0], replace(open_.candidates[0], name="int8")))
    assert exit_code(both) == 5
    text = as_text(both)
    assert text.splitlines()[0].startswith("PASS")
    assert text.splitlines()[1].startswith('CANNOT TELL: "int8"')
    assert "int8 against dense" in text


def test_seeds_have_their_own_table(make_analysis: Any) -> None:
    made = make_analysis()
    seeds = pd.DataFrame(
        {"class_name": ["cat"], "change": [-6.5], "change_low": [-9.0], "change_high": [-4.0], "seeds": [5]}
    )
    text = as_text(replace(made, candidates=(replace(made.candidates[0], seeds=seeds),)))
    assert "Over seeds" in text
    assert "−6.5 [−9.0, −4.0]" in text


def test_json_holds_everything_and_nan_is_null(make_analysis: Any) -> None:
    made = replace(make_analysis(), provenance={"path": Path("a/b"), "n": np.int64(3), "x": np.float64("inf")})
    text = as_json(made)
    found = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert found["schema"] == "tailkeep-audit/1"
    assert (found["decision"], found["exit_code"]) == ("fail", 1)
    assert found["provenance"] == {"path": "a/b", "n": 3, "x": None}
    candidate = found["candidates"][0]
    assert candidate["classes"][0]["ece"] is None
    assert candidate["classes"][0]["class_name"] == "cat"
    assert len(candidate["flips"]) == 2
    assert candidate["seeds"] is None
    first = candidate["gate"]["results"][0]
    assert first["name"] == "cat"
    assert first["p_broken_adjusted"] == 0.0004
    assert candidate["gate"]["results"][4]["estimate"] is None
    assert text == as_json(made)
    assert text.isascii()


def test_json_refuses_what_has_no_form(make_analysis: Any) -> None:
    with pytest.raises(TypeError, match="no JSON form for object"):
        as_json(replace(make_analysis(), provenance={"x": object()}))


def test_sarif_follows_the_schema(make_analysis: Any, every_kind: Any) -> None:
    units = (*every_kind, ("drop", "site=B", 500, 40, 5, "broken", None))
    found = json.loads(as_sarif(make_analysis(*units)))
    jsonschema.Draft7Validator(SARIF_SUBSET).validate(found)
    run = found["runs"][0]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert rules == [
        "tailkeep/class-drop",
        "tailkeep/class-floor",
        "tailkeep/group-drop",
        "tailkeep/group-floor",
        "tailkeep/class-false-positives",
    ]
    got = [(r["ruleId"], r["level"], r["properties"]["name"]) for r in run["results"]]
    assert sorted(got) == [
        ("tailkeep/class-drop", "error", "cat"),
        ("tailkeep/class-drop", "warning", "dog"),
        ("tailkeep/class-drop", "warning", "emu"),
        ("tailkeep/class-floor", "error", "owl"),
        ("tailkeep/group-drop", "error", "site=B"),
    ]
    assert all(rules[r["ruleIndex"]] == r["ruleId"] for r in run["results"])
    place = run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert place == "out/a%20b.csv"
    prints = [r["partialFingerprints"]["primaryLocationLineHash"] for r in run["results"]]
    assert len(set(prints)) == len(prints)
    assert run["invocations"] == [{"executionSuccessful": True, "exitCode": 1}]


def test_the_schema_sees_a_wrong_level(make_analysis: Any) -> None:
    found = json.loads(as_sarif(make_analysis()))
    found["runs"][0]["results"][0]["level"] = "fatal"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(SARIF_SUBSET).validate(found)


def test_sarif_paths_outside_the_repository_are_file_uris(make_analysis: Any) -> None:
    found = json.loads(as_sarif(make_analysis(path="/tmp/ü#?.csv")))
    place = found["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert place == "file:///tmp/%C3%BC%23%3F.csv"
    nameless = replace(make_analysis(), provenance={})
    place = json.loads(as_sarif(nameless))["runs"][0]["results"][0]["locations"][0]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "pruned"


def test_junit_has_a_case_a_check(make_analysis: Any) -> None:
    text = as_junit(make_analysis(names=("pruned", "int8")))
    root = ElementTree.fromstring(text.encode("utf-8"))
    assert root.tag == "testsuites"
    assert [suite.get("name") for suite in root] == ["pruned", "int8"]
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == ("10", "4", "4")
    suite = root[0]
    cases = {(c.get("name")): [child.tag for child in c] for c in suite.iter("testcase")}
    assert cases == {
        "class cat: loses at most 2 pp": ["failure"],
        "class dog: loses at most 2 pp": ["skipped"],
        "class owl: loses at most 2 pp": ["system-out"],
        "class owl: recall 70 %": ["failure"],
        "class emu: loses at most 2 pp": ["skipped"],
    }
    failure = suite.find(".//failure")
    assert failure is not None
    assert "loses 7 percentage points" in str(failure.get("message"))
    assert "needs about 2,800 more" in text


def test_no_name_breaks_a_format(make_analysis: Any, hostile: str) -> None:
    units = (
        ("drop", hostile, 500, 40, 5, "broken", None),
        ("drop", "x" * 5000, 500, 12, 6, "cannot tell", 3345),
        ("drop", f"site={hostile}", 500, 12, 6, "cannot tell", 3345),
    )
    made = make_analysis(*units, names=(hostile + "\ud800",), path=f"out/{hostile}\udcff.csv")
    made = replace(made, baseline=hostile, notes=(hostile,))
    for text in (as_text(made), as_text(made, verbose=True)):
        assert not controls(text)
        assert max(map(len, text.splitlines())) < 1000
    coloured = as_text(made, verbose=True, colour=True, width=120)
    assert "\x1b[31ma" not in coloured
    assert "\u202e" not in coloured
    root = ElementTree.fromstring(as_junit(made).encode("utf-8"))
    assert len(list(root.iter("testcase"))) == 3
    assert 'a"<b>&[x](http://evil)' in str(root[0].get("name"))
    assert not controls(as_junit(made))
    sarif = as_sarif(made)
    found = json.loads(sarif)
    jsonschema.Draft7Validator(SARIF_SUBSET).validate(found)
    message = found["runs"][0]["results"][0]["message"]["text"]
    assert "\\[x\\](http://evil)" in message, "a link in a name stays text"
    assert not controls(message)
    assert json.loads(as_json(made))["class_names"][0] == hostile, "JSON keeps names as they are, in ASCII"
    assert as_json(made).isascii()
    assert sarif.isascii()
