"""The command, its text and its page."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tailkeep.cli_recommend import register
from tailkeep.recommend import shown
from tailkeep.report.recommend_charts import _beside
from tailkeep.report.recommend_page import write_recommendation

from .conftest import INTEGERS, RUINED, SAME


def _app() -> typer.Typer:
    app = typer.Typer()
    register(app)

    @app.command()
    def other() -> None:
        pass

    return app


def test_the_command_says_the_answer_and_exits_with_it(
    asked: Any, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "study.yaml").write_text(json.dumps(asked(SAME, INTEGERS)), encoding="utf-8")
    common = [
        "recommend",
        str(tmp_path / "study.yaml"),
        "--store",
        str(store),
        "--workers",
        "1",
        "--out",
        str(tmp_path),
    ]
    said = CliRunner().invoke(_app(), [*common, "--max-class-drop", "10"])
    assert said.exit_code == 0, said.output
    for words in ("2 candidates against digits_net", "to do:", "order fixed:", "SAFE", "tailkeep export", "report:"):
        assert words in said.output
    assert said.output.index("order fixed") < said.output.index("SAFE")
    plain = CliRunner().invoke(_app(), [*common, "--json"])
    assert plain.exit_code == 5
    assert json.loads(plain.stdout)["status"] == "cannot tell"
    assert (tmp_path / "recommend.html").is_file()


def test_the_page_has_the_answer_the_chart_and_the_evidence(ask: Any, asked: Any, tmp_path: Path) -> None:
    answer = ask(asked(SAME, INTEGERS, RUINED))
    page = shown.write_page(answer, tmp_path / "page").read_text(encoding="utf-8")
    assert answer.sentence in page
    assert 'id="figure-frontier"' in page
    assert 'id="figure-change' in page
    files = tmp_path / "page" / "recommend_files"
    assert (files / "figures" / "frontier.png").stat().st_size > 1000
    assert (files / "tables" / "frontier.csv").read_text(encoding="utf-8").count("\n") == 4
    for name in re.findall(r'href="(recommend_files/[^"]+)"', page):
        assert (tmp_path / "page" / name).is_file(), name


def test_what_it_takes_is_said_of_each_open_class(
    ask: Any, asked: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class that has images enough is not told to get more: it seems to lose."""
    answer = ask(asked(SAME), max_class_drop=2.0)
    assert answer.needs[0] == f"0: about {answer.images_needed['0']} held-out images (it has 80)"
    ended = answer.evidence[0]
    enough, never = (
        dataclasses.replace(ended.classes[0], n=1000, images_needed=720, loss=0.036),
        dataclasses.replace(ended.classes[1], images_needed=None),
    )
    ended = dataclasses.replace(ended, classes=(enough, never))
    answer = dataclasses.replace(answer, evidence=(ended,))
    needs = [
        "0: its 1,000 images would do if nothing was lost; 3.6 points lost here, so more may not help",
        "1: no number of images tells",
    ]
    assert answer.needs == answer.to_dict()["needs"] == needs
    page = shown.write_page(answer, tmp_path).read_text(encoding="utf-8")
    shown.print_answer(answer, tmp_path, as_json=False)
    said = capsys.readouterr().out
    for need in needs:
        assert f"<li>{need}</li>" in page
        assert f"- class {need}" in said


@pytest.mark.parametrize(("times", "align"), [(1.2, "left"), (9.1, "right")])
def test_the_chosen_name_has_room(times: float, align: str) -> None:
    values = [{"name": "", "times": 5.0}, {"name": "chosen", "times": times}]
    assert _beside(values, (0.9, 14.0))["align"] == align


def test_names_from_outside_are_escaped(ask: Any, asked: Any, tmp_path: Path) -> None:
    facts = ask(asked(SAME)).to_dict()
    nasty = "<script>alert(1)</script>"
    facts["evidence"][0]["classes"][0]["name"] = nasty
    facts["frontier"][0]["worst_class"] = nasty
    page = write_recommendation(facts, tmp_path / "nasty.html").read_text(encoding="utf-8")
    assert nasty not in page
    assert "&lt;script&gt;" in page


def test_a_page_without_any_finalist(ask: Any, asked: Any, tmp_path: Path) -> None:
    facts = ask(asked(SAME)).to_dict()
    facts |= {"evidence": [], "order": [], "status": "cannot tell", "chosen": None, "export": None, "place": None}
    facts["frontier"][0] |= {"status": "failed", "worst_loss": None, "power": None, "place": None}
    page = write_recommendation(facts, tmp_path / "none.html").read_text(encoding="utf-8")
    assert "no candidate was left" in page
