"""Continued training: the control that goes through a method's recipe without compressing anything."""

from __future__ import annotations

from typing import Literal

from tailkeep.compression.base import Method


class Continue(Method):
    """Train the parent on, uncompressed; with a recipe of 0 epochs, the parent itself."""

    kind: Literal["continue"] = "continue"

    @property
    def compresses(self) -> bool:
        """Nothing is made smaller."""
        return False
