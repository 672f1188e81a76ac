"""What docs/losses.md tells a stranger to do, done: one file, one line, and the check suite on it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")


def run(source: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in the repository's root with ``source`` as the place of the package."""
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A copy of the sources with the page's loss in it."""
    source = tmp_path / "src"
    shutil.copytree(ROOT / "src" / "tailkeep", source / "tailkeep", ignore=shutil.ignore_patterns("__pycache__"))
    section = PAGE[PAGE.index("## A loss of your own") :]
    file, line = re.findall(r"```python\n(.*?)```", section, re.S)
    names = re.findall(r"`src/(tailkeep/losses/\w+\.py)`", section)
    assert names == ["tailkeep/losses/poly1.py", "tailkeep/losses/__init__.py"]
    assert line.count("\n") == 1
    (source / names[0]).write_text(file, encoding="utf-8")
    with open(source / names[1], "a", encoding="utf-8") as room:
        room.write(line)
    return source


@pytest.mark.slow
def test_one_file_and_one_line_are_a_loss_that_the_suite_has_tested(written: Path) -> None:
    changed = [
        path.relative_to(written).as_posix()
        for path in written.rglob("*.py")
        if not (ROOT / "src" / path.relative_to(written)).is_file()
        or path.read_bytes() != (ROOT / "src" / path.relative_to(written)).read_bytes()
    ]
    assert sorted(changed) == ["tailkeep/losses/__init__.py", "tailkeep/losses/poly1.py"]

    suite = run(
        written, "-m", "pytest", "tests/study/test_catalog_checks.py", "-k", "Poly1 or name_of_its_own", "-vv",
        "-p", "no:cacheprovider",
    )  # fmt: skip
    assert suite.returncode == 0, suite.stdout[-3000:] + suite.stderr[-1000:]
    passed = re.findall(r"::(\w+)(?:\[(\S+)\])? PASSED", suite.stdout)
    assert ("test_a_kind_is_a_frozen_documented_value_with_one_key", "Poly1") in passed
    means = [name for name, _ in passed if name == "test_a_loss_is_a_finite_differentiable_mean_over_the_batch"]
    assert len(means) == 3, "at the start, in the middle and at the end of the training"

    use = """
import tailkeep, torch
from pydantic import TypeAdapter
from tailkeep.study.catalog import AnyLoss
loss = TypeAdapter(AnyLoss).validate_python({"kind": "poly1", "epsilon": 2, "drw": 0.8})
f = loss.build((3, 2), torch.device("cpu"))
print(tailkeep.__file__, loss.kind, float(f(torch.zeros(1, 2), torch.tensor([0]), 0.0)))
"""
    found = run(written, "-c", use)
    assert found.returncode == 0, found.stderr[-1000:]
    place, kind, value = found.stdout.split()
    assert place.startswith(str(written))
    assert kind == "poly1"
    assert float(value) == pytest.approx(0.6931472 + 2 * 0.5, abs=1e-6)
