"""The built-in space is a study that can be run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tailkeep.recommend.candidates import candidates_of
from tailkeep.recommend.space import built_in
from tailkeep.study.spec import StudySpec, load_study, study_text


def _study(asked: Any, tmp_path: Path, *models: dict[str, Any]) -> StudySpec:
    study = {**asked(), "balanced": "none", "models": list(models) or asked()["models"]}
    (tmp_path / "study.yaml").write_text(json.dumps(study), encoding="utf-8")
    return load_study(tmp_path / "study.yaml")[0]


def test_a_plain_model_is_repaired_during_and_after_compression(asked: Any, tmp_path: Path) -> None:
    study = _study(asked, tmp_path)
    methods = {entry.name: entry for entry in built_in(study, saturates=True)}
    assert {"int8", "pruned 50", "pruned 50 + int8", "pruned 50 (balanced softmax) + int8", "W4A8"} <= set(methods)
    assert "half width + int8" in methods
    assert methods["pruned 30 + int8 + logits adjusted"].parent == "pruned 30 + int8"
    assert "pruned 30 (balanced softmax) + int8 + logits adjusted" not in methods, "its prior is off already"
    assert methods["int8"].method.plain()["weight_bits"] == 7
    assert built_in(study, saturates=False)[0].method.plain()["weight_bits"] == 8


def test_a_repaired_model_keeps_its_own_loss(asked: Any, tmp_path: Path) -> None:
    focal = {"model": {"kind": "digits_net"}, "name": "focal", "loss": {"kind": "focal"}}
    plain = {"model": {"kind": "digits_net"}, "name": "plain"}
    study = _study(asked, tmp_path, plain, focal)
    methods = built_in(study, saturates=False)
    assert {e.loss.plain()["kind"] for e in methods if e.method.trains and "focal" in (e.models or ())} == {"focal"}
    assert not [e for e in methods if "adjusted" in e.name and "focal" in (e.models or ())]
    whole = StudySpec.model_validate(study.model_copy(update={"methods": methods}).plain())
    (tmp_path / "again.yaml").write_text(study_text(whole), encoding="utf-8")
    assert load_study(tmp_path / "again.yaml")[0] == whole, "what is written out can be read again"


def test_a_candidate_knows_its_chain(asked: Any, tmp_path: Path) -> None:
    study = _study(asked, tmp_path)
    study = study.model_copy(update={"methods": built_in(study, saturates=False)})
    found = {each.name: each for each in candidates_of(study, "digits_net")}
    assert found["pruned 30 + int8 + logits adjusted"].chain == (
        "pruned 30", "pruned 30 + int8", "pruned 30 + int8 + logits adjusted",
    )  # fmt: skip
    assert found["pruned 30 + int8"].trains
    assert not found["int8"].trains
    assert found["half width"].sized
