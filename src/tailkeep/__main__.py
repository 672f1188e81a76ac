"""``python -m tailkeep`` is the command line."""

from __future__ import annotations

from tailkeep.cli import main

main()
