"""Draws the imports and fails on an arrow that docs/architecture.md forbids."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "tailkeep"
BASE = {"errors", "spec", "randomness", "files", "yaml_reader", "classifier", ""}  # "": the package itself, its version
LEAVES = {"data", "models", "losses", "sampling", "compression", "training", "evaluation", "export"}
ALLOWED = {
    **{leaf: {leaf} for leaf in LEAVES},
    "sampling": set(),
    "frame": {"evaluation.metrics"},
    "analysis": {"analysis", "frame", "evaluation.metrics", "evaluation.calibration", "evaluation.multilabel"},
    "report": {"report", "analysis"},
    "auditing": {"auditing", "data", "models", "evaluation", "export", "frame", "analysis"},
    "errors": set(),
    "spec": set(),
    "randomness": set(),
    "files": set(),
    "": {"study", "auditing", "testing"},
    "testing": {"auditing"},
    "cli": {"study", "cli_audit", "cli_options", "cli_recommend", "cli_store", "cli_travel"},
    "cli_options": set(),
    "cli_audit": {"auditing", "analysis"},
    "cli_recommend": {"cli_options", "recommend"},
    "cli_store": {"cli_options", "study"},
    "cli_travel": {"cli_options", "study"},
    "recommend": {"recommend", "study", "analysis", "training.recipe", "evaluation.metrics"},
    "__main__": {"cli"},
}
# The study's rooms one by one: only these files see the leaves.
SEES_LEAVES = {"study.catalog", "study.steps", "study.deploy", "study.resolve", "study.rebuild", "study.spec"}
STUDY_PLAIN = {
    *(
        f"study.{name}"
        for name in ("plan", "stages", "store", "engine", "estimate", "record", "result_hash", "results", "imported")
    ),
    *(f"study.{name}" for name in ("lease", "leases", "carry", "limits", "pool", "verify", "gc", "retry")),
    *(f"study.{name}" for name in ("stores", "store_items", "commit", "objects")),
    *(f"study.object_{part}" for part in ("files", "index", "items", "lease", "store")),
    *(f"study.{name}" for name in ("ray_pool", "ray_cluster")),
    *(f"study.travel{part}" for part in ("", "_archive", "_check", "_collect", "_format", "_frame")),
}
# Of an audit, only what shows it draws.
SHOWS_AUDIT = {"auditing.result", "auditing.files", "auditing.outputs", "recommend.shown"}
STUDY_MORE = {
    "study.results": {"analysis", "frame"},
    "study.imported": {"frame"},
    **{f"study.travel_{part}": {"frame"} for part in ("format", "frame", "collect")},
    "study.runner": {"analysis"},
    "study.display": {"analysis", "report"},
}


def modules() -> dict[str, Path]:
    found = {}
    for path in SOURCE.rglob("*.py"):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        found[name.removesuffix(".__init__").removesuffix("__init__")] = path
    return found


def arrows(path: Path) -> set[str]:
    """Modules of tailkeep that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tailkeep":
            inside = node.module.removeprefix("tailkeep").removeprefix(".")
            for alias in node.names:
                whole = f"{inside}.{alias.name}".removeprefix(".")
                found.add(whole if whole in modules() else inside)
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("tailkeep").removeprefix(".") for a in node.names if a.name == "tailkeep"}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
    return found


def allowed(module: str, target: str) -> bool:
    room, target_room = module.split(".")[0], target.split(".")[0]
    if target in BASE:
        return True
    if room == "study":
        if target_room == "study":
            return module not in STUDY_PLAIN or target not in SEES_LEAVES
        if target_room in LEAVES:
            return module in SEES_LEAVES
        return target_room in STUDY_MORE.get(module, set())
    if target_room == "report" and any(module == one or module.startswith(f"{one}.") for one in SHOWS_AUDIT):
        return True
    return target_room in ALLOWED[room] or target in ALLOWED[room]


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_run_one_way(module: str) -> None:
    wrong = sorted(target for target in arrows(modules()[module]) if not allowed(module, target))
    assert not wrong, f"tailkeep.{module} may not import {wrong}"


def test_the_check_sees_a_wrong_arrow() -> None:
    assert not allowed("analysis.gaps", "study.store")
    assert not allowed("data.cifar", "models.resnet")
    assert not allowed("study.plan", "study.catalog")
    assert not allowed("report.page", "frame")


@pytest.mark.parametrize("module", sorted(STUDY_PLAIN | {"frame", "analysis.study", "report.page"}))
def test_reading_results_needs_no_torch(module: str) -> None:
    code = f"import sys, tailkeep.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, tailkeep.cli; sys.exit(bool({'torch', 'pandas', 'altair', 'numpy', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    shown = subprocess.run([sys.executable, "-m", "tailkeep", "--help"], check=True, capture_output=True, text=True)
    assert "Exit codes" in shown.stdout


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_rooms_are_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400, "one idea a file: split it"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, f"{node.name} is too long: split it"
