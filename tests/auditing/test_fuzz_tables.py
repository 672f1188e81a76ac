"""3,000 damaged files; ``benchmarks/fuzz_predictions.py`` reads 95,000 in the same way."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FILES = 3_000
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_predictions.py"


@pytest.fixture(scope="module")
def fuzzing() -> ModuleType:
    pytest.importorskip("pyarrow.parquet")
    spec = importlib.util.spec_from_file_location("fuzz_predictions", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_damaged_files_are_read_or_refused(fuzzing: ModuleType) -> None:
    summary = fuzzing.fuzz(FILES, seed=0)
    assert not summary.failures
    assert sum(summary.counts.values()) == FILES
    assert summary.slowest[0] < fuzzing.SECONDS
    assert summary.grown < fuzzing.MEMORY
    for form in fuzzing.FORMS:
        assert summary.counts[form, "accepted"] > 5, "a fuzzer that never passes the first check finds nothing"
        assert summary.counts[form, "refused"] > 100


def test_every_valid_file_is_accepted_by_both_readers(fuzzing: ModuleType, tmp_path: Path) -> None:
    for form, files in fuzzing.seeds().items():
        for data, options in files:
            path = tmp_path / f"whole.{form}"
            path.write_bytes(data)
            assert fuzzing.disagreement(data, form, fuzzing.read_predictions(path, **options)) is None


def test_a_wrong_answer_would_be_seen(fuzzing: ModuleType, tmp_path: Path) -> None:
    for form, files in fuzzing.seeds().items():
        data, options = files[0]
        path = tmp_path / f"whole.{form}"
        path.write_bytes(data)
        found = fuzzing.read_predictions(path, **options)
        found.predicted[3] = (found.predicted[3] + 1) % 4
        assert fuzzing.disagreement(data, form, found) == "another prediction"
