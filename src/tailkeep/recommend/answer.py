"""The answer: which model is safe, on what evidence, and everything that was tried."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tailkeep import errors
from tailkeep.recommend.decide import CANNOT_TELL, NOTHING, SAFE

EXIT = {SAFE: errors.DONE, NOTHING: errors.CLASS_LOST, CANNOT_TELL: errors.CANNOT_TELL}


@dataclass(frozen=True)
class ClassEvidence:
    """A class of a candidate on the held-out split. Shares in 0..1; ``loss`` with its interval at the confidence.

    ``images_needed``: about how many held-out images of the class the whole gate needs for an 80 % chance of a pass,
    if the candidate truly loses nothing; None where it was told, or where no number of images does.
    """

    name: str
    n: int
    n10: int
    n01: int
    loss: float
    low: float
    high: float
    p_kept: float
    p_broken: float
    decision: str
    images_needed: int | None


@dataclass(frozen=True)
class Evidence:
    """A candidate that was held against the held-out split; ``decision`` of its gate: "pass", "fail", "cannot tell"."""

    name: str
    decision: str
    classes: tuple[ClassEvidence, ...]


@dataclass(frozen=True)
class Tried:
    """One candidate of the frontier. Losses are on validation, shares; ``power`` is the predicted one of its gate.

    ``status``: "passed", "not passed", "not reached", "pruned early", "out of budget" or "failed".
    """

    name: str
    model: str
    method: str
    status: str
    detail: str
    place: int | None
    trained: float
    packed_bytes: int | None
    times_smaller: float | None
    macs: int | None
    latency_ms: float | None
    power: float | None
    worst_class: str
    worst_loss: float | None
    worst_low: float | None
    worst_high: float | None
    mean_loss: float | None


@dataclass(frozen=True)
class Recommendation:
    """``status``: "safe" (``chosen`` is the smallest that passed), "nothing is safe" or "cannot tell".

    ``evidence`` is of every candidate that was held against the held-out split, in turn. ``place``: store, kind, key
    and file of the chosen model; ``export``: the command that writes it as an ONNX file. ``broken``: where nothing is
    safe, the classes that each candidate is shown to lose. ``folder``: where its files are.
    """

    study: str
    status: str
    sentence: str
    chosen: str | None
    baseline: dict[str, Any]
    question: dict[str, Any]
    evidence: tuple[Evidence, ...]
    frontier: tuple[Tried, ...]
    order: tuple[str, ...]
    stopped: str | None
    broken: dict[str, tuple[str, ...]]
    place: dict[str, str] | None
    export: str | None
    notes: tuple[str, ...]
    provenance: dict[str, Any]
    folder: str

    @property
    def exit_code(self) -> int:
        """What the command line exits with: 0 safe, 1 nothing is safe, 5 cannot tell."""
        return EXIT[self.status]

    @property
    def images_needed(self) -> dict[str, int | None]:
        """Of the candidate that ended the sequence, about how many held-out images each open class needs."""
        return {each.name: each.images_needed for each in self._open}

    @property
    def needs(self) -> list[str]:
        """The same in words, a sentence a class; of a class that has images enough, what it seems to lose."""
        return [_need(each) for each in self._open]

    @property
    def _open(self) -> tuple[ClassEvidence, ...]:
        ended = next((each for each in self.evidence if each.name == self.stopped), None)
        return tuple(c for c in ended.classes if c.decision == "cannot tell") if ended else ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        plain = asdict(self)
        return {
            "schema": "tailkeep-recommend/1",
            **_plain(plain),
            "exit_code": self.exit_code,
            "images_needed": self.images_needed,
            "needs": self.needs,
        }

    def _repr_html_(self) -> str:
        """Show the answer in a notebook."""
        from html import escape

        return f"<p><b>{escape(self.status)}</b>: {escape(self.sentence)}</p>"


def _need(each: ClassEvidence) -> str:
    if each.images_needed is None:
        return f"{each.name}: no number of images tells"
    if each.images_needed > each.n:
        return f"{each.name}: about {each.images_needed:,} held-out images (it has {each.n:,})"
    lost = f"{100 * abs(each.loss):.1f} points {'lost' if each.loss > 0 else 'won'}"
    return f"{each.name}: its {each.n:,} images would do if nothing was lost; {lost} here, so more may not help"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value
