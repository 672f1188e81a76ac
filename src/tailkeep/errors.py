"""What can go wrong, and the exit code that each gets on the command line."""

from __future__ import annotations

DONE = 0
CLASS_LOST = 1
BAD_INPUT = 2
CELLS_FAILED = 3
CANNOT_TELL = 5
UNEXPECTED = 70
INTERRUPTED = 130


class TailkeepError(Exception):
    """Base of every error that tailkeep raises on purpose; ``exit_code`` is what the command line returns."""

    exit_code = UNEXPECTED


class BadInput(TailkeepError):
    """The user's input cannot be used; raised before any compute. The text names the place, the cause and the fix."""

    exit_code = BAD_INPUT


class StepFailed(TailkeepError):
    """A step of a study failed for a reason that belongs to that step alone, so the other cells go on.

    ``reason`` is a short stable word (``nan``, ``probe``, ``buffers``...) that reports and scripts can rely on.
    """

    exit_code = CELLS_FAILED

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[StepFailed], tuple[str, str]]:
        """Cross a process boundary whole (the default would lose ``detail``)."""
        return StepFailed, (self.reason, self.detail)


class MissingExtra(BadInput):
    """An optional library is not installed; the text names the command that installs it."""


class TailkeepWarning(UserWarning):
    """Base of the warnings that tailkeep gives."""
