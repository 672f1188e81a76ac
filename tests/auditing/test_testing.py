"""``assert_keeps_tail``: when it raises, skips or passes, and what it hands on."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

import tailkeep
from tailkeep.testing import assert_keeps_tail

OPEN = ("drop", "dog", 500, 12, 6, "cannot tell", 3345)
KEPT = ("drop", "owl", 500, 2, 12, "kept", None)


@pytest.fixture
def audit_gives(monkeypatch: pytest.MonkeyPatch, make_analysis: Any) -> Any:
    """Put an audit of these units in place of the real one; the list holds what it was called with."""

    def put(*units: Any) -> list[Any]:
        calls: list[Any] = []

        def audit(*given: Any, **options: Any) -> Any:
            calls.append((given, options))
            return SimpleNamespace(analysis=make_analysis(*units))

        monkeypatch.setattr(tailkeep, "audit", audit, raising=False)
        return calls

    return put


def test_a_loss_raises_with_the_text(audit_gives: Any) -> None:
    audit_gives()
    with pytest.raises(AssertionError, match=r'(?s)FAIL: "pruned".*"cat" loses 7 percentage points.*Who pays'):
        assert_keeps_tail([0], [0], [0], cannot_tell="pass")


def test_what_is_kept_passes_and_returns_the_audit(audit_gives: Any) -> None:
    calls = audit_gives(KEPT)
    audit = assert_keeps_tail([0, 1], [0, 1], [0, 0], max_class_drop=3, class_names=["a", "b"], train_counts=[5, 1])
    assert audit.analysis.candidates[0].gate.decision == "pass"
    given, options = calls[0]
    assert given == ([0, 1], [0, 1], [0, 0])
    assert options == {
        "max_class_drop": 3,
        "confidence": 0.95,
        "policy": None,
        "class_names": ["a", "b"],
        "train_counts": [5, 1],
    }


def test_cannot_tell_fails_unless_told_otherwise(audit_gives: Any) -> None:
    audit_gives(OPEN, KEPT)
    with pytest.raises(AssertionError, match=r"CANNOT TELL(?s:.*)needs about 2,800 more"):
        assert_keeps_tail([0], [0], [0])
    assert assert_keeps_tail([0], [0], [0], cannot_tell="pass") is not None
    with pytest.raises(pytest.skip.Exception, match=r"^CANNOT TELL") as skipped:
        assert_keeps_tail([0], [0], [0], cannot_tell="skip")
    assert len(str(skipped.value).splitlines()) == 1, "the reason is the decision, the tables are for a failure"


def test_without_pytest_it_skips_as_unittest_does(audit_gives: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import unittest

    audit_gives(OPEN)
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(unittest.SkipTest, match="CANNOT TELL"):
        assert_keeps_tail([0], [0], [0], cannot_tell="skip")


def test_a_word_that_it_does_not_know_is_refused(audit_gives: Any) -> None:
    calls = audit_gives(KEPT)
    with pytest.raises(ValueError, match="cannot_tell"):
        assert_keeps_tail([0], [0], [0], cannot_tell="ignore")  # type: ignore[arg-type]
    assert not calls
