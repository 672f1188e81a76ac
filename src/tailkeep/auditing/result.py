"""What ``tailkeep.audit`` gives back: a small object with tables, figures, words and a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from tailkeep.analysis.audit import AuditAnalysis, CandidateAudit
from tailkeep.errors import BadInput

if TYPE_CHECKING:
    from tailkeep.report.audit_plots import Plot


@dataclass(frozen=True, eq=False)
class Plots:
    """The figures of an audit, each a ``Plot`` that shows itself in a notebook, offline."""

    analysis: AuditAnalysis

    def change(self, candidate: str | None = None) -> Plot:
        """Return the change of every class's recall with its interval and the limit; of one candidate, or the first."""
        from tailkeep.report import audit_plots

        return audit_plots.change(self.analysis, candidate)

    def recall(self) -> Plot:
        """Return every class's recall before and after."""
        from tailkeep.report import audit_plots

        return audit_plots.recall(self.analysis)

    def groups(self) -> Plot:
        """Return the change of recall of the groups and slices."""
        from tailkeep.report import audit_plots

        return audit_plots.groups(self.analysis)

    def calibration(self) -> Plot:
        """Return the change of every class's calibration error; raises BadInput without scores."""
        from tailkeep.report import audit_plots

        return audit_plots.calibration(self.analysis)


@dataclass(frozen=True, eq=False)
class Audit:
    """An audit of one baseline and its candidates.

    ``analysis`` holds everything; ``frame`` is the tidy table of counts that it was read from (``tailkeep.frame``).
    The tables below put the candidates under each other, told apart by the column ``model``; recalls and changes
    are in percentage points. ``thumbnails`` maps rows of flipped images to PNG files, where there were images.
    """

    analysis: AuditAnalysis
    frame: pd.DataFrame
    thumbnails: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def candidates(self) -> tuple[CandidateAudit, ...]:
        """Each candidate's tables and gate."""
        return self.analysis.candidates

    @property
    def decision(self) -> str:
        """``fail``, ``pass`` or ``cannot tell``: of several candidates the worst."""
        from tailkeep.auditing.outputs.sentences import decision

        return decision(self.analysis)

    @property
    def exit_code(self) -> int:
        """What the command line returns: 1, 0 or 5."""
        from tailkeep.auditing.outputs.sentences import exit_code

        return exit_code(self.analysis)

    @property
    def classes(self) -> pd.DataFrame:
        """A row a class: counts, recalls, change with interval, McNemar's p, calibration."""
        return self._stacked("classes")

    @property
    def groups(self) -> pd.DataFrame:
        """A row a frequency group or slice."""
        return self._stacked("groups")

    @property
    def summary(self) -> pd.DataFrame:
        """A row a summary figure, with its bootstrap interval."""
        return self._stacked("summary")

    @property
    def flips(self) -> pd.DataFrame:
        """A row an example that got another answer, the worst first."""
        return self._stacked("flips")

    @property
    def plot(self) -> Plots:
        """The figures."""
        return Plots(self.analysis)

    def to_json(self) -> str:
        """Return everything as JSON, as ``tailkeep audit --format json`` prints it."""
        from tailkeep.auditing.outputs import as_json

        return as_json(self.analysis)

    def write_report(self, out: Path | str) -> Path:
        """Write the HTML page, its figures and tables into the folder ``out``; return the page's path.

        Raises BadInput where ``out`` is a file.
        """
        from tailkeep.report.audit_page import write_audit_report

        if Path(out).is_file():
            raise BadInput(f"{out}: is a file; name a folder for the report")
        return write_audit_report(self.analysis, Path(out) / "report.html", self.thumbnails)

    def __str__(self) -> str:
        """Return the audit in words and tables."""
        from tailkeep.auditing.outputs import as_text

        return as_text(self.analysis)

    def _repr_html_(self) -> str:
        """Show the verdict and the figure of who pays in a notebook."""
        from tailkeep.auditing.outputs.sentences import verdict

        said = "".join(
            f"<p><strong>{escape(verdict(candidate, self.analysis.baseline))}</strong></p>"
            for candidate in self.candidates
        )
        figures = "".join(self.plot.change(candidate.name)._repr_html_() for candidate in self.candidates)
        return f"<div>{said}{figures}</div>"

    def _stacked(self, table: str) -> pd.DataFrame:
        parts = [getattr(one, table).assign(model=one.name) for one in self.candidates]
        stacked: pd.DataFrame = pd.concat(parts, ignore_index=True)
        # "candidate" is also a column of the summary and of the flips: the candidate's value there
        stacked.insert(0, "model", stacked.pop("model"))
        return stacked
