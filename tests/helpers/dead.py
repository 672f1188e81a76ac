"""A process that is no more, for tests of what it left behind."""

from __future__ import annotations

import subprocess
import sys

from tailkeep.study.lease import process_started


def dead_process() -> tuple[int, float]:
    """Return its number and when it started."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    started = process_started(child.pid)
    assert started is not None
    child.kill()
    child.wait()
    return child.pid, started
