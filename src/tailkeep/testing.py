"""A test of one's own: ``assert_keeps_tail`` fails where a compressed model loses a class."""

from __future__ import annotations

from typing import Any, Literal

CannotTell = Literal["fail", "pass", "skip"]


def assert_keeps_tail(
    y_true: Any,
    baseline: Any,
    candidate: Any,
    *,
    max_class_drop: float = 2.0,
    confidence: float = 0.95,
    policy: Any = None,
    class_names: Any = None,
    cannot_tell: CannotTell = "fail",
    **audit_options: Any,
) -> Any:
    """Assert that no class loses more than ``max_class_drop`` percentage points of its recall; return the audit.

    Takes what ``tailkeep.audit`` takes: labels, the baseline's and the candidate's answers (class indices or names
    (N,), or scores (N, C)), and further options of it. ``cannot_tell`` says what happens where the test set is too
    small to decide: "fail" (the default: what is not shown is not kept), "pass", or "skip" the test.

    The reason of a skip is the decision's sentence.

    Raises AssertionError with the audit's text where a class is shown to lose more, BadInput where the input cannot be
    used.
    """
    __tracebackhide__ = True
    if cannot_tell not in ("fail", "pass", "skip"):
        raise ValueError(f'cannot_tell: expected "fail", "pass" or "skip", got {cannot_tell!r}')
    import tailkeep
    from tailkeep.auditing.outputs.sentences import decision
    from tailkeep.auditing.outputs.text import as_text

    audit = tailkeep.audit(
        y_true,
        baseline,
        candidate,
        max_class_drop=max_class_drop,
        confidence=confidence,
        policy=policy,
        class_names=class_names,
        **audit_options,
    )
    found = decision(audit.analysis)
    if found == "pass" or (found == "cannot tell" and cannot_tell == "pass"):
        return audit
    text = as_text(audit.analysis)
    if found == "cannot tell" and cannot_tell == "skip":
        lines = text.splitlines()
        _skip(next((line for line in lines if line.startswith("CANNOT TELL")), lines[0]))
    raise AssertionError("\n" + text)


def _skip(text: str) -> None:
    """Skip the running test for a reason of one line, by pytest where it is there, else by unittest."""
    __tracebackhide__ = True
    try:
        import pytest
    except ImportError:
        import unittest

        raise unittest.SkipTest(text) from None
    pytest.skip(text)
