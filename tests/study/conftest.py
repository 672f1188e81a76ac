from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from tailkeep import cli_store
from tailkeep.study.runner import Options, Study, open_study

SMALL: dict[str, Any] = {
    "name": "small",
    "data": {"source": {"kind": "digits"}},
    "imbalance": [{"kind": "exponential", "ratio": 10, "n_max": 60}],
    "balanced": "matched",
    "models": [{"model": {"kind": "digits_net"}}],
    "recipe": {"epochs": 3, "batch_size": 32, "lr": 0.1, "precision": "float32"},
    "methods": [
        {
            "name": "pruned",
            "method": {"kind": "filter_pruning", "ratio": 0.5},
            "recipe": {"epochs": 1, "batch_size": 32, "lr": 0.02, "precision": "float32"},
        },
        {
            "name": "A8",
            "method": {"kind": "qat"},
            "recipe": {"epochs": 1, "batch_size": 32, "lr": 0.01, "precision": "float32"},
        },
        {
            "name": "pruned A4",
            "parent": "pruned",
            "method": {"kind": "qat", "activation_bits": 4, "activations": "pact", "pact_start": None},
            "recipe": {"epochs": 1, "batch_size": 32, "lr": 0.01, "precision": "float32"},
        },
        {
            "name": "distilled",
            "method": {"kind": "distillation"},
            "student": {"kind": "digits_net", "width": 0.5},
            "recipe": {"epochs": 3, "batch_size": 32, "lr": 0.1, "precision": "float32"},
        },
        {
            "name": "distilled A8",
            "parent": "distilled",
            "method": {"kind": "qat"},
            "recipe": {"epochs": 1, "batch_size": 32, "lr": 0.01, "precision": "float32"},
        },
    ],
    "seeds": [0],
}


def _write(path: Path, study: dict[str, Any]) -> Path:
    path.write_text(json.dumps(study, indent=1), encoding="utf-8")  # JSON is YAML, and never has an alias
    return path


@pytest.fixture
def write() -> Callable[[Path, dict[str, Any]], Path]:
    """Write a study as YAML; return the path."""
    return _write


@pytest.fixture
def small() -> dict[str, Any]:
    """A study of every technique, cut down to a few seconds; a fresh copy that a test may change."""
    import copy

    return copy.deepcopy(SMALL)


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Study]:
    """Open a study given as a dict, with its store in the test's folder."""

    def make(study: dict[str, Any], **options: Any) -> Study:
        options = {"store": tmp_path / "store", "workers": 1, "cache": tmp_path / "cache", **options}
        return open_study(_write(tmp_path / "study.yaml", study), Options(**options))

    return make


@pytest.fixture
def runtime(tmp_path: Path) -> Any:
    """What toy work needs beside its step: where its store is, its diary, and the sign that a fault was mended."""
    names = {name: str(tmp_path / name) for name in ("store", "diary", "mended")}
    return SimpleNamespace(threads=1, **names)


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line as a user would, in an empty folder."""

    def run(*arguments: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TAILKEEP")}
        environment |= {"COLUMNS": "200", "TAILKEEP_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, "-m", "tailkeep", *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    return run


@pytest.fixture
def app() -> typer.Typer:
    """The commands of a store's upkeep alone."""
    app = typer.Typer()
    cli_store.register(app)
    return app
