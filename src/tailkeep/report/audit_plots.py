"""The figures of an audit one by one, for a notebook: SVG drawn here, so that they show without a network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailkeep.errors import BadInput
from tailkeep.files import write_atomic
from tailkeep.report import canvas, svg
from tailkeep.report.audit_charts import calibration_figure, recall_figures
from tailkeep.report.audit_forest import change_figure, group_figure
from tailkeep.report.audit_view import AuditView, cleaned_audit

if TYPE_CHECKING:
    from tailkeep.analysis.audit import AuditAnalysis


@dataclass(frozen=True)
class Plot:
    """One figure. A notebook shows it; ``save`` writes it; ``to_altair`` gives it to whoever wants to change it."""

    figure: canvas.Figure

    @property
    def svg(self) -> str:
        """The figure as an SVG file's text, in the light colours."""
        return svg.standalone(svg.numbered(canvas.to_svg(self.figure.wide)))

    def png(self, scale: float = 2.0) -> bytes:
        """Return the figure as a PNG file, ``scale`` times as many pixels as it is wide and high."""
        return canvas.to_png(self.svg, scale)

    def save(self, path: Path | str) -> Path:
        """Write the figure to a file that ends in .svg or .png; return its path. Raises BadInput for another end."""
        path = Path(path)
        kind = path.suffix.lower()
        if kind not in (".svg", ".png"):
            raise BadInput(f"{path}: a figure is written as .svg or .png")
        write_atomic(path, self.svg if kind == ".svg" else self.png())
        return path

    def to_altair(self) -> Any:
        """Return the figure as an Altair chart. (A notebook needs the network, or a plug-in, to show that one.)"""
        import altair as alt

        return alt.Chart.from_dict(self.figure.wide)

    def _repr_html_(self) -> str:
        """Show in a notebook: the drawing, cleaned as the page's are, and its caption."""
        drawn = self.svg
        # Ids are of the whole notebook: a drawing's own digest keeps them apart, and the same from run to run.
        drawing = svg.inline(drawn, f"p{hashlib.sha256(drawn.encode()).hexdigest()[:12]}", paint=False)
        caption = escape(self.figure.caption)
        style = "background:#fff;color:#1c2330;max-width:1100px"
        return f'<div style="{style}">{drawing}<p><small>{caption}</small></p></div>'


def change(analysis: AuditAnalysis, candidate: str | None = None) -> Plot:
    """Draw the change of recall by class, with intervals and the limit, of one candidate (the first)."""
    view = AuditView(cleaned_audit(analysis))
    names = [each.name for each in analysis.candidates]
    if candidate is not None and candidate not in names:
        raise BadInput(f"no candidate {candidate!r}; there are {', '.join(names)}")
    which = names.index(candidate) if candidate is not None else 0
    return _plot(lambda: change_figure(view, view.candidates[which]) if names else None, "no class has a test image")


def recall(analysis: AuditAnalysis) -> Plot:
    """Draw each class's recall before and after: a dumbbell a class, for many classes a scatter."""
    view = AuditView(cleaned_audit(analysis))
    return _plot(lambda: next(iter(recall_figures(view)), None), "no class has a test image")


def groups(analysis: AuditAnalysis) -> Plot:
    """Draw the change of recall by group of classes, and by the groups of images that the user gave."""
    view = AuditView(cleaned_audit(analysis))
    return _plot(lambda: group_figure(view), "there are no groups")


def calibration(analysis: AuditAnalysis) -> Plot:
    """Draw each class's calibration error before and after."""
    view = AuditView(cleaned_audit(analysis))
    return _plot(lambda: calibration_figure(view), "it needs scores (logits or probabilities) of both models")


def _plot(make: Callable[[], canvas.Figure | None], why: str) -> Plot:
    figure = make()
    if figure is None:
        raise BadInput(f"nothing to draw: {why}")
    return Plot(figure)
