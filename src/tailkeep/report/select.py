"""Which rows of an analysis a figure or a table shows, and in which order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from tailkeep.analysis.result import StudyAnalysis, Verdict
from tailkeep.report.words import printable, printable_lines

ROLES = ("dense", "technique", "control")
REFERENCES = ("dense", "teacher", "self", "student_alone", "continued", "other_seed")
GROUPS = ("dataset", "model")


def cleaned(analysis: StudyAnalysis) -> StudyAnalysis:
    """Return the analysis with every name printable, so that no writer has to think of it again."""
    changes: dict[str, Any] = {}
    for each in fields(analysis):
        value = getattr(analysis, each.name)
        if isinstance(value, pd.DataFrame):
            changes[each.name] = clean_frame(value)
        elif isinstance(value, str):
            changes[each.name] = printable(value)
        elif each.name in {"group_names", "notes"}:
            changes[each.name] = tuple(printable(text) for text in value)
    changes["verdicts"] = tuple(_clean_verdict(v) for v in analysis.verdicts)
    changes["provenance"] = clean_tree(analysis.provenance)
    if analysis.provenance.get("spec"):  # of the text as it was given
        digest = hashlib.sha256(str(analysis.provenance["spec"]).encode("utf-8", "surrogatepass")).hexdigest()
        changes["provenance"].setdefault("spec_sha256", digest)
    return replace(analysis, **changes)


def _clean_verdict(verdict: Verdict) -> Verdict:
    texts: dict[str, Any] = {
        each.name: printable(value) for each in fields(verdict) if isinstance(value := getattr(verdict, each.name), str)
    }
    return replace(verdict, **texts)


def clean_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with every text printable and its rows counted from 0."""
    clean = frame.reset_index(drop=True)
    for name in clean.columns:
        if not (pd.api.types.is_numeric_dtype(clean[name]) or pd.api.types.is_bool_dtype(clean[name])):
            clean[name] = pd.Series([x if _missing(x) else printable(x) for x in clean[name]], dtype=object)
    return clean


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value))


def clean_tree(value: Any) -> Any:
    """Return nested facts with every text and key printable."""
    if isinstance(value, dict):
        return {printable(key): clean_tree(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean_tree(item) for item in value]
    return printable_lines(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Panel:
    """One dataset, model and setting: the smallest unit that has its own frame in a figure."""

    dataset: str
    model: str
    setting: str


@dataclass(frozen=True)
class View:
    """A cleaned analysis and the orders that all its figures and tables share."""

    analysis: StudyAnalysis

    @cached_property
    def methods(self) -> list[str]:
        """Every method: dense first, techniques as the study lists them, controls last."""
        roles = self.roles
        return sorted(roles, key=lambda method: ROLES.index(roles[method]))

    @cached_property
    def roles(self) -> dict[str, str]:
        """The role of each method, in order of appearance."""
        found: dict[str, str] = {}
        for frame in (self.analysis.accuracy, self.analysis.gaps, self.analysis.recall):
            for method, role in zip(frame["method"], frame["role"], strict=True):
                found.setdefault(method, role if role in ROLES else "technique")
        for verdict in self.analysis.verdicts:
            found.setdefault(verdict.method, "technique")
        return found

    @cached_property
    def settings(self) -> list[str]:
        """Every setting, as the study lists them."""
        frames = (self.analysis.gaps, self.analysis.recall, self.analysis.accuracy)
        return list(dict.fromkeys(s for frame in frames for s in frame["setting"]))

    @cached_property
    def families(self) -> list[tuple[str, str]]:
        """Every (dataset, model) pair."""
        frames = (self.analysis.accuracy, self.analysis.gaps, self.analysis.recall)
        judged = [(verdict.dataset, verdict.model) for verdict in self.analysis.verdicts]
        return list(dict.fromkeys([*(x for f in frames for x in zip(f["dataset"], f["model"], strict=True)), *judged]))

    @cached_property
    def shown(self) -> tuple[str, ...]:
        """Which of dataset and model differ within the study, and so must be named."""
        return tuple(name for i, name in enumerate(GROUPS) if len({family[i] for family in self.families}) > 1)

    @cached_property
    def has_excess(self) -> bool:
        """Whether an excess gap is known anywhere."""
        gaps = self.analysis.gaps
        return bool((gaps["excess"].notna() & (gaps["role"] != "dense")).any())

    @cached_property
    def has_deployment(self) -> bool:
        """Whether a model was exported or timed."""
        size, latency = self.analysis.size, self.analysis.latency
        exported = "file_bytes" in size.columns and bool(size["file_bytes"].notna().any())
        return exported or (len(latency) > 0 and bool(latency["median_ms"].notna().any()))

    @cached_property
    def headline_reference(self) -> dict[tuple[str, str, str], str]:
        """The reference that a method is judged against, by (dataset, model, method)."""
        best: dict[tuple[str, str, str], str] = {}
        for frame in (self.analysis.gaps, self.analysis.recall, self.analysis.tail):
            for *key, reference in frame[["dataset", "model", "method", "reference"]].itertuples(index=False):
                if _rank(reference) < _rank(best.get(tuple(key), "")):
                    best[tuple(key)] = reference
        for verdict in self.analysis.verdicts:
            best[verdict.dataset, verdict.model, verdict.method] = verdict.reference
        return best

    def family_name(self, dataset: str, model: str) -> str:
        """Name a (dataset, model) by what differs in this study; empty where nothing does."""
        return " · ".join(value for name, value in zip(GROUPS, (dataset, model), strict=True) if name in self.shown)

    def headline(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Keep one row a method and cell: the headline reference, the imbalanced cell (or the primary twin's row)."""
        best = self.headline_reference
        keep = [
            reference == best.get((dataset, model, method), reference)
            for dataset, model, method, reference in frame[["dataset", "model", "method", "reference"]].itertuples(
                index=False
            )
        ]
        return self.one_twin(frame.loc[keep])

    @cached_property
    def headline_recall(self) -> pd.DataFrame:
        """``headline`` of the table of recall, which several figures and the first lines draw on."""
        return self.headline(self.analysis.recall)

    def one_twin(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Keep the imbalanced cells: the rows called so, else those of the primary twin, else of the first twin."""
        for twin in ("imbalanced", self.analysis.primary_twin, "none", *frame["twin"].unique()):
            if (frame["twin"] == twin).any():
                kept: pd.DataFrame = frame[frame["twin"] == twin]
                return kept
        return frame

    def ordered(self, frame: pd.DataFrame, *last: str) -> pd.DataFrame:
        """Sort by dataset and model, setting, method, then ``last``."""
        spots: dict[str, Any] = {
            "family": [self.families.index((d, m)) for d, m in zip(frame["dataset"], frame["model"], strict=True)],
            "place": frame["setting"].map(self.settings.index),
            "turn": frame["method"].map(self.methods.index),
        }
        ranked = frame.assign(**{f"_{name}": value for name, value in spots.items()})
        columns = [f"_{name}" for name in spots]
        return ranked.sort_values([*columns, *last], kind="stable").drop(columns=columns)

    def panels(self, frame: pd.DataFrame) -> list[Panel]:
        """Every panel that ``frame`` has rows for, in the study's order."""
        present = set(zip(frame["dataset"], frame["model"], frame["setting"], strict=True))
        return [Panel(d, m, s) for d, m in self.families for s in self.settings if (d, m, s) in present]

    def panel_name(self, panel: Panel) -> str:
        """Name a panel by its setting, with dataset and model where they differ."""
        return " · ".join(x for x in (self.family_name(panel.dataset, panel.model), panel.setting) if x)

    def class_labels(self, frame: pd.DataFrame) -> dict[int, str]:
        """Name each frequency rank of one panel; a rank that is another class on every seed is "rank 3"."""
        names: dict[int, str] = {}
        for rank, rows in frame.groupby("rank"):
            distinct = list(dict.fromkeys(rows["class_name"]))
            names[int(str(rank))] = distinct[0] if len(distinct) == 1 else f"rank {int(str(rank)) + 1}"
        repeated = {n for n in names.values() if list(names.values()).count(n) > 1}
        return {rank: f"{name} (#{rank + 1})" if name in repeated else name for rank, name in names.items()}


def of_panel(frame: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """Keep one panel's rows."""
    return frame[
        (frame["dataset"] == panel.dataset) & (frame["model"] == panel.model) & (frame["setting"] == panel.setting)
    ]


def _rank(reference: str) -> int:
    if not reference:
        return len(REFERENCES) + 1
    return REFERENCES.index(reference) if reference in REFERENCES else len(REFERENCES)
