"""tailkeep: do your rare classes survive model compression?

``open_study`` reads a study file, ``Options`` are the settings that change no result; both come from
``tailkeep.study.runner`` at their first use, so that ``import tailkeep`` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailkeep.study.runner import Options, open_study

__version__ = "0.1.0"
__all__ = ["Options", "__version__", "open_study"]


def __getattr__(name: str) -> Any:
    """Import the study's entry points when they are asked for."""
    if name in ("Options", "open_study"):
        from tailkeep.study import runner

        return getattr(runner, name)
    raise AttributeError(f"module 'tailkeep' has no attribute {name!r}")
