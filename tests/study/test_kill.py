"""The durability benchmarks in short form; each is a process of its own, since it forks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(name: str, *options: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(BENCHMARKS / name), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "as it must be"
    return done.stdout


@pytest.mark.slow
def test_kills_and_faults_cost_nothing_and_a_naive_store_is_found_out() -> None:
    told = run("kill.py", "--kills", "3", "--faults", "4", "--naive-kills", "3")
    naive = next(line for line in told.splitlines() if line.startswith("SIGKILLs, naive store"))
    assert not naive.endswith("Wrong: nothing")


@pytest.mark.slow
def test_flipped_bits_and_cut_files_are_seen_and_never_served() -> None:
    assert "60 seen by verify" in run("bit_flips.py", "--flips", "50", "--truncations", "10")


@pytest.mark.slow
def test_processes_share_a_study() -> None:
    assert "8 published once" in run("share.py", "--processes", "3", "--seeds", "1", "--kill-every", "1")
