"""The audit as SARIF 2.1.0 (OASIS 2020), which code-scanning services show as alerts at the candidate's file.

A result for each check that is broken (error) or cannot be told (warning). What is kept is left out: services show
every result as an alert, whatever its kind.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from tailkeep import __version__
from tailkeep.analysis.audit import AuditAnalysis, CandidateAudit
from tailkeep.analysis.gate import Check, CheckResult
from tailkeep.auditing.outputs.sentences import by_decision, exit_code, of_check, quoted
from tailkeep.report.words import printable

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
KINDS = {"drop": "drop", "rise": "false-positives", "recall": "floor"}
LEVELS = {"broken": "error", "cannot tell": "warning"}
_HELP = (
    "The candidate was compared with its baseline on the same test images. Compress less, or retrain so that this "
    "{unit} keeps its recall; a check that cannot be told needs more test images of the {unit}. "
    "`tailkeep audit --verbose` shows all {plural}."
)


def _rule(unit: str, plural: str, kind: str) -> dict[str, Any]:
    asks = {
        "drop": f"A {unit} loses more recall than is allowed",
        "rise": f"A {unit} is wrongly given to more images than is allowed",
        "recall": f"The recall of a {unit} lies below its floor",
    }[kind]
    why = (
        "Compression that leaves the accuracy as it is can take the recall of a rare class. "
        f"{asks}: shown by a one-sided test at the audit's confidence, corrected for the number of checks (Holm)."
    )
    help_ = _HELP.format(unit=unit, plural=plural)
    return {
        "id": _rule_id(unit, kind),
        "name": f"{unit.capitalize()}{KINDS[kind].title().replace('-', '')}",
        "shortDescription": {"text": f"{asks}."},
        "fullDescription": {"text": why},
        "help": {"text": help_, "markdown": help_},
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": ["class-imbalance", "model-quality"], "precision": "high", "problem.severity": "error"},
    }


def _rule_id(unit: str, kind: str) -> str:
    return f"tailkeep/{unit}-{KINDS[kind]}"


RULES = [
    *(
        _rule(unit, plural, kind)
        for unit, plural in (("class", "classes"), ("group", "groups"))
        for kind in ("drop", "recall")
    ),
    _rule("class", "classes", "rise"),
]
_INDEX = {rule["id"]: index for index, rule in enumerate(RULES)}


def as_sarif(analysis: AuditAnalysis) -> str:
    """Return the audit as SARIF text in ASCII. The fingerprint of a result is stable over runs: candidate and check."""
    results = [
        _result(analysis, candidate, result)
        for candidate in analysis.candidates
        for word in LEVELS
        for result in by_decision(candidate.gate.results, word)
    ]
    run = {
        "tool": {"driver": {"name": "tailkeep", "semanticVersion": __version__, "rules": RULES}},
        "invocations": [_invocation(analysis)],
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1, allow_nan=False) + "\n"


def _invocation(analysis: AuditAnalysis) -> dict[str, Any]:
    """Return what was run, with what its decision does not see (section 3.20.21)."""
    said = [
        {"level": "warning", "message": {"text": _escape(printable(f"{candidate.name}: {warning}"))}}
        for candidate in analysis.candidates
        for warning in (*candidate.warnings, *([candidate.caveat] if candidate.caveat else []))
    ]
    found: dict[str, Any] = {"executionSuccessful": True, "exitCode": exit_code(analysis)}
    return {**found, "toolExecutionNotifications": said} if said else found


def _result(analysis: AuditAnalysis, candidate: CandidateAudit, result: CheckResult) -> dict[str, Any]:
    check = result.check
    rule = _rule_id(check.unit, check.kind)
    sentence = of_check(result, candidate.gate.confidence)
    return {
        "ruleId": rule,
        "ruleIndex": _INDEX[rule],
        "kind": "fail",
        "level": LEVELS[result.decision],
        "message": {"text": _escape(f"{sentence} Candidate {quoted(candidate.name)}.")},
        "locations": [{"physicalLocation": _place(analysis, candidate)}],
        "partialFingerprints": {"primaryLocationLineHash": _fingerprint(candidate.name, check)},
        "properties": {
            "candidate": printable(candidate.name),
            "unit": check.unit,
            "name": printable(check.name),
            "n": check.n,
            "limit": check.limit,
            "decision": result.decision,
        },
    }


def _escape(text: str) -> str:
    """Take a text's brackets for themselves: in a SARIF message ``[text](place)`` is a link (section 3.11.6)."""
    return text.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")


def _fingerprint(candidate: str, check: Check) -> str:
    parts = json.dumps([candidate, check.kind, check.unit, check.name])
    return hashlib.sha256(parts.encode("ascii")).hexdigest()[:32]


def _place(analysis: AuditAnalysis, candidate: CandidateAudit) -> dict[str, Any]:
    """Return the candidate's file; a predictions or model file has no lines, so its first character stands for it."""
    region = {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 2}
    return {"artifactLocation": {"uri": _uri(candidate_file(analysis, candidate))}, "region": region}


def candidate_file(analysis: AuditAnalysis, candidate: CandidateAudit) -> str:
    """Return the path of a candidate's file (of several seeds the first) by the provenance; else its name."""
    source = analysis.provenance.get("candidates", {}).get(candidate.name, {})
    source = source.get("0", source)  # several seeds are numbered
    return str(source.get("path") or candidate.name)


def _uri(path: str) -> str:
    """Return a path as a URI reference: relative stays relative, so that it is found in the repository."""
    text = PurePath(path).as_posix()
    uri = quote(text.encode("utf-8", "surrogateescape"), safe="/")
    return f"file://{uri}" if text.startswith("/") else uri
