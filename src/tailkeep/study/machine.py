"""What this machine's processor says that it can do."""

from __future__ import annotations

from pathlib import Path


def cpu_flags() -> str | None:
    """Return the text in which Linux lists the processor's features; None where it is not known."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
