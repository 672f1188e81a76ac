"""The optional libraries of this room, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any

from tailkeep.errors import MissingExtra


def need(name: str) -> Any:
    """Import an optional library. Raises ``MissingExtra`` with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        hint = "pip install 'tailkeep[onnx]'"
        raise MissingExtra(f"{name} is needed for ONNX files and cannot be imported ({error}); {hint}") from error
