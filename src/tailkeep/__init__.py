"""tailkeep: do your rare classes survive model compression?

``open_study`` reads a study file, ``Options`` are the settings that change no result, ``audit`` compares a model before
and after compression, ``assert_keeps_tail`` does so in a test. Each is imported at its first use, so that
``import tailkeep`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailkeep.auditing.run import audit
    from tailkeep.study.runner import Options, open_study
    from tailkeep.testing import assert_keeps_tail

__version__ = "0.1.0"
__all__ = ["Options", "__version__", "assert_keeps_tail", "audit", "open_study"]

_HOMES = {
    "Options": "tailkeep.study.runner",
    "open_study": "tailkeep.study.runner",
    "audit": "tailkeep.auditing.run",
    "assert_keeps_tail": "tailkeep.testing",
}


def __getattr__(name: str) -> Any:
    """Import an entry point when it is asked for."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tailkeep' has no attribute {name!r}")
