"""The audit as JUnit XML: a suite a candidate, a test case a check. CI systems show it as test results."""

from __future__ import annotations

from xml.etree import ElementTree

from tailkeep.analysis.audit import AuditAnalysis, CandidateAudit
from tailkeep.analysis.gate import Check, CheckResult
from tailkeep.auditing.outputs.sentences import limit, need, of_check
from tailkeep.report.words import printable


def as_junit(analysis: AuditAnalysis) -> str:
    """Return the audit as JUnit XML. A broken check is a failure; one that cannot be told is skipped.

    Names lose what XML cannot hold (``printable``); the writer escapes the rest. A CI system that looks at nothing but
    this file takes "skipped" for no fault: read the exit code (5) as well.
    """
    root = ElementTree.Element("testsuites", {"name": "tailkeep audit", **_totals(analysis.candidates)})
    for candidate in analysis.candidates:
        attributes = {"name": printable(candidate.name), **_totals((candidate,))}
        suite = ElementTree.SubElement(root, "testsuite", attributes)
        properties = ElementTree.SubElement(suite, "properties")
        for name, value in (
            ("baseline", printable(analysis.baseline)),
            ("decision", candidate.gate.decision),
            ("confidence", f"{candidate.gate.confidence:g}"),
            *((("caveat", printable(candidate.caveat)),) if candidate.caveat else ()),
            *(("warning", printable(warning)) for warning in candidate.warnings),
        ):
            ElementTree.SubElement(properties, "property", {"name": name, "value": value})
        for result in candidate.gate.results:
            _case(suite, candidate, result)
    ElementTree.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _totals(candidates: tuple[CandidateAudit, ...]) -> dict[str, str]:
    decisions = [result.decision for candidate in candidates for result in candidate.gate.results]
    return {
        "tests": str(len(decisions)),
        "failures": str(decisions.count("broken")),
        "errors": "0",
        "skipped": str(decisions.count("cannot tell")),
        "time": "0",
    }


def _case(suite: ElementTree.Element, candidate: CandidateAudit, result: CheckResult) -> None:
    attributes = {"classname": f"tailkeep.{printable(candidate.name)}", "name": _title(result.check), "time": "0"}
    case = ElementTree.SubElement(suite, "testcase", attributes)
    sentence = of_check(result, candidate.gate.confidence)
    if result.decision == "broken":
        ElementTree.SubElement(case, "failure", {"message": sentence, "type": result.check.kind}).text = sentence
    elif result.decision == "cannot tell":
        ElementTree.SubElement(case, "skipped", {"message": f"cannot tell: it {need(result)}"}).text = sentence
    else:
        ElementTree.SubElement(case, "system-out").text = sentence


def _title(check: Check) -> str:
    much = limit(check.limit)
    asks = {"drop": f"loses at most {much} pp", "rise": f"false positives rise by at most {much} pp"}
    asked = asks.get(check.kind, f"recall {much} %")
    return f"{check.unit} {printable(check.name)}: {asked}"
