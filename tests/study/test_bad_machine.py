"""Bad inputs 23 to 26, seen from the command line: what a machine does to a run, and what the next run makes of it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

STUDY = """\
name: mine
data:
  source: {kind: digits}
imbalance: {kind: exponential, ratio: 10, n_max: 60}
balanced: none
models:
  - model: {kind: digits_net}
recipe: {epochs: 1, batch_size: 32, lr: 0.1, precision: float32}
methods:
  - name: pruned
    method: {kind: filter_pruning, ratio: 0.5}
    recipe: {epochs: 1, batch_size: 32, lr: 0.01, precision: float32}
seeds: [0, 1]
"""
NET = """\
import os, signal, time
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x):
        if self.training and x.shape[0] > 8:
            WHAT
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start the command line in the test's folder."""

    def run(*arguments: str, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TAILKEEP")}
        environment |= {"COLUMNS": "200", "TAILKEEP_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, "-m", "tailkeep", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True, preexec_fn=before
        )

    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    return run


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a command; return its exit code and its words, without a traceback among them."""
    out, err = process.communicate(timeout=180)
    assert "Traceback" not in err, err
    return process.returncode, " ".join((out + err).split())


def result_hash(tmp_path: Path, name: str = "mine") -> str:
    facts = json.loads((tmp_path / "tailkeep-results" / name / "verdict.json").read_text(encoding="utf-8"))
    return str(facts["result_hash"])


def test_23_two_runs_of_one_study_share_it_and_end_alike(start: Any, tmp_path: Path) -> None:
    runs = [start("run", "study.yaml", "--workers", "1", "--out", name, "--json") for name in ("one", "two")]
    facts = []
    for run in runs:
        out, err = run.communicate(timeout=180)
        assert run.returncode == 0, err
        facts.append(json.loads(out))
    steps = len(list((tmp_path / "tailkeep-store").glob("*/*/manifest.json")))
    assert facts[0]["steps_done"] + facts[1]["steps_done"] == steps == 12, "each step was done by one of the two"
    assert (tmp_path / "one" / "frame.csv").read_bytes() == (tmp_path / "two" / "frame.csv").read_bytes()


def test_23_the_lock_of_a_run_that_was_killed_is_reclaimed(start: Any, tmp_path: Path) -> None:
    run = start("run", "study.yaml", "--workers", "1")
    leases = tmp_path / "tailkeep-store" / "leases"
    deadline = time.monotonic() + 60
    while not list(leases.glob("train.*.lease")):
        assert time.monotonic() < deadline
        assert run.poll() is None
        time.sleep(0.01)
    run.kill()
    run.communicate()
    assert list(leases.glob("train.*.lease")), "killed in the middle of a step, which it still holds"
    code, words = ended(start("run", "study.yaml", "--workers", "1"))
    assert code == 0, words
    assert not list(leases.glob("*.lease"))


def test_24_a_disk_that_fills_up_stops_the_run_which_goes_on_later(start: Any, tmp_path: Path) -> None:
    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    code, words = ended(start("run", "study.yaml", "--workers", "1", before=small))
    assert code == 3, words
    assert "disk_full" in words
    assert "the same command goes on where it stopped" in words
    store = tmp_path / "tailkeep-store"
    assert not list(store.glob("train/*/manifest.json")), "no model fits into the limit, and none is half stored"
    code, words = ended(start("run", "study.yaml", "--workers", "1"))
    assert code == 0, words
    assert len(list(store.glob("train/*/manifest.json"))) == 2


def theirs(tmp_path: Path, what: str, models: str) -> None:
    """Write a study of one seed and no method, with a user's model that does ``what`` when it trains."""
    (tmp_path / "net.py").write_text(NET.replace("WHAT", what), encoding="utf-8")
    study = STUDY.replace("  - model: {kind: digits_net}\n", models).replace("[0, 1]", "[0]")
    study = study[: study.index("methods:")] + study[study.index("seeds:") :]
    (tmp_path / "study.yaml").write_text(study, encoding="utf-8")


@pytest.mark.parametrize(
    ("what", "reason"),
    [("os.kill(os.getpid(), signal.SIGKILL)", "worker_killed"), ("raise MemoryError('no more')", "out_of_memory")],
)
def test_25_what_befalls_a_worker_is_told_apart_and_tried_thrice(
    start: Any, tmp_path: Path, what: str, reason: str
) -> None:
    theirs(tmp_path, what, "  - model: {kind: digits_net}\n  - {name: theirs, model: {kind: user, name: net}}\n")
    code, words = ended(start("run", "study.yaml", "--model-code", "net.py:Net", "--workers", "2"))
    assert code == 3, words
    assert f"{reason}: 3 times in turn" in words
    kept = json.loads((tmp_path / "tailkeep-results" / "mine" / "verdict.json").read_text(encoding="utf-8"))
    assert kept["failures"] == 1, "the other model's cell is there"


def test_25_a_step_that_hangs_is_ended_at_its_limit(start: Any, tmp_path: Path) -> None:
    theirs(tmp_path, "time.sleep(3600)", "  - {name: theirs, model: {kind: user, name: net}}\n")
    options = ("--model-code", "net.py:Net", "--workers", "1", "--step-limit", "0.03")
    code, words = ended(start("run", "study.yaml", *options))
    assert code == 3, words
    assert "hang: 3 times in turn; the last time: no end after 0.03 minutes (--step-limit)" in words


def test_26_another_thread_count_stops_the_run_with_the_difference(start: Any, tmp_path: Path) -> None:
    code, words = ended(start("run", "study.yaml", "--workers", "1", "--threads", "1"))
    assert code == 0, words
    before = result_hash(tmp_path)
    code, words = ended(start("run", "study.yaml", "--workers", "1", "--threads", "2"))
    assert code == 2, words
    assert "the environment of study 'mine' changed since its last run: threads: 1 -> 2" in words
    code, words = ended(start("run", "study.yaml", "--workers", "1", "--threads", "2", "--new-env"))
    assert code == 0, words
    assert result_hash(tmp_path) == before, "what was stored is not done again"


def test_26_another_torch_stops_the_run_with_the_difference(start: Any, tmp_path: Path) -> None:
    code, words = ended(start("run", "study.yaml", "--workers", "1"))
    assert code == 0, words
    record = tmp_path / "tailkeep-store" / "studies" / "mine.json"
    rewrite = (
        "import sys, torch\nfrom pathlib import Path\nfrom tailkeep.study.record import read_record, write_record\n"
        "from tailkeep.study.store import Store\nrecord = read_record(Path(sys.argv[1]))\n"
        "record['environment']['torch'] = '2.6.0'\n"
        "write_record(Store(Path(sys.argv[1]).parents[1]), 'mine', record)\n"
    )
    subprocess.run([sys.executable, "-c", rewrite, str(record)], check=True)
    code, words = ended(start("run", "study.yaml", "--workers", "1"))
    assert code == 2, words
    assert "torch: 2.6.0 -> " in words
    assert "--new-env" in words
