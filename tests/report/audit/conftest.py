"""Synthetic audits: two or more models' answers, and what the analysis makes of them, without any model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tailkeep import frame as frames
from tailkeep.analysis.audit import AuditAnalysis, CandidateAudit
from tailkeep.analysis.gate import Check, CheckResult, Gate
from tailkeep.analysis.pairs import pair_tables
from tailkeep.analysis.study import analyse
from tailkeep.auditing.flips import flips
from tailkeep.auditing.predictions import Predictions

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Maker:
    """Draws the answers of a baseline, and of candidates that lose more in the tail."""

    def __init__(self, **shape: Any) -> None:
        self.classes = tuple(shape.get("classes", CLASSES))
        self.n = shape.get("n", 1000)
        self.candidates = dict(shape.get("candidates", {"pruned 50 %": 7.0}))
        self.baseline = shape.get("baseline", "dense")
        self.task = shape.get("task", "multiclass")
        self.scores = shape.get("scores", len(self.classes) <= 100)
        self.training = shape.get("training", True)
        self.seeds = shape.get("seeds", False)
        self.limit = shape.get("limit", 2.0)
        self.recall_floor = shape.get("recall_floor")
        self.name = shape.get("name", "CIFAR-10-LT, pruned")
        self.draw = np.random.default_rng(3)
        many = len(self.classes)
        self.rare = np.arange(many) / max(many - 1, 1)
        self.train = np.maximum(1, (5000 * 100**-self.rare).astype(int)) if self.training else None
        self.labels = np.repeat(np.arange(many), self.n)

    def answers(self, name: str, right: np.ndarray, wrong: np.ndarray) -> Predictions:
        """A model that gives each row its label where it is right, else ``wrong``."""
        many = len(self.classes)
        predicted = np.where(right, self.labels, wrong)
        sure = np.where(right, 0.9, 0.6) - 0.3 * self.rare[self.labels] * self.draw.random(len(predicted))
        scores = np.full((len(predicted), many), (1 - sure)[:, None] / max(1, many - 1)) if self.scores else None
        if scores is not None:
            scores[np.arange(len(predicted)), predicted] = sure
        groups = {"camera": np.where(np.arange(len(predicted)) % 2, "phone", "reflex <b>")}
        ids = np.array([f"test/{label}/{i:05d}.png" for i, label in enumerate(self.labels)])
        labels = self.labels
        if self.task == "multilabel":
            labels, predicted = (np.eye(many, dtype=np.uint8)[values] for values in (labels, predicted))
        said = {"scores": scores, "scores_are": "probabilities" if self.scores else None, "ids": ids, "groups": groups}
        return Predictions(name, labels, predicted, self.classes, self.task, **said)

    def models(self) -> tuple[Predictions, list[Predictions]]:
        """The baseline and the candidates."""
        rare, many = self.rare[self.labels], len(self.classes)
        wrong = (self.labels + 1 + self.draw.integers(max(1, many - 1), size=len(self.labels))) % many
        right = self.draw.random(len(self.labels)) < 0.95 - 0.4 * rare
        found = []
        other = np.where((wrong + 1) % many == self.labels, (wrong + 2) % many, (wrong + 1) % many)
        for name, cost in self.candidates.items():
            lost = self.draw.random(len(rare)) < np.clip(0.012 + cost / 60 * rare**2, 0.002, 0.6)
            won = self.draw.random(len(rare)) < 0.03
            said = np.where(self.draw.random(len(rare)) < 0.2, other, wrong)
            found.append(self.answers(name, np.where(right, ~lost, won), said))
        return self.answers(self.baseline, right, wrong), found

    def gate(self, table: pd.DataFrame) -> Gate:
        """Decisions by the interval alone: quick, and each of the three occurs."""
        results = []
        for r in table.to_dict("records") if self.limit is not None else []:
            check = Check("drop", "class", r["class_name"], r["n"], r["n10"], r["n01"], self.limit / 100)
            low, high = -r["change_high"] / 100, -r["change_low"] / 100
            decision = "broken" if low > check.limit else "kept" if high < check.limit else "cannot tell"
            p = {"broken": 0.0004, "kept": 0.9}.get(decision, 0.2)
            kept = {"broken": 0.99, "kept": 0.004}.get(decision, 0.3)
            needed = 3345 if decision == "cannot tell" else None
            estimate = -r["change"] / 100
            results.append(CheckResult(check, estimate, low, high, p, min(1.0, 10 * p), kept, decision, True, needed))
        if self.recall_floor:
            r = table.to_dict("records")[-1]
            right = r["n11"] + r["n01"]
            check = Check("recall", "group", "rare", r["n"], r["n"] - right, right, self.recall_floor / 100)
            share = right / r["n"]
            ends = {"low": share - 0.03, "high": share + 0.03, "exact": True, "images_needed": None}
            p = {"p_broken": 0.001, "p_broken_adjusted": 0.01, "p_kept": 0.9}
            results.append(CheckResult(check, share, decision="broken", **ends, **p))
        decisions = {r.decision for r in results}
        decision = "fail" if "broken" in decisions else "pass" if decisions == {"kept"} else "cannot tell"
        return Gate(tuple(results), 0.95, decision)

    def study_rows(self, name: str, role: str, table: pd.DataFrame) -> list[dict[str, Any]]:
        """The rows of the frame of one model, for the study that the page draws its heat map from."""
        cell = {"dataset": "test", "setting": "as given", "twin": "imbalanced", "model": "model", "seed": 0}
        own = {"split": "test", "method": name, "role": role, "reference": "self" if role == "dense" else "dense"}
        rows = []
        for r in table.to_dict("records"):
            n, both = r["n"], ("n11", "n10", "n01", "n00", "changed")
            joint = {key: r[key] for key in both}
            if role == "dense":
                right = r["n11"] + r["n10"]
                joint = dict(zip(both, (right, 0, 0, n - right, 0), strict=True))
            tp = joint["n11"] + joint["n01"]
            count = 0 if self.train is None else int(self.train[r["class_index"]])
            named = {"class_index": r["class_index"], "class_name": r["class_name"], "train_count": count}
            rows.append(
                {**cell, **own, **named, "n": n, "tp": tp, "fp": n - tp, "fn": n - tp, **joint, "loss_sum": 1.0}
            )
        return rows

    def make(self) -> AuditAnalysis:
        baseline, candidates = self.models()
        audits, rows = [], []
        names, rule = (), ""
        for each in candidates:
            made = pair_tables(baseline, each, train_counts=self.train, resamples=200)
            names, rule = made.frequency.names, made.frequency.rule
            rows += self.study_rows(self.baseline, "dense", made.classes) if not rows else []
            rows += self.study_rows(each.name, "technique", made.classes)
            seeds = None
            if self.seeds:
                change = made.classes["change"].to_numpy()
                ends = {"change": change, "change_low": change - 1.6, "change_high": change + 1.6, "seeds": 5}
                seeds = pd.DataFrame({"class_name": self.classes, **ends})
            tables = {"classes": made.classes, "groups": made.groups, "summary": made.summary}
            flipped = flips(baseline, each, self.train)
            audits.append(CandidateAudit(each.name, self.gate(made.classes), **tables, flips=flipped, seeds=seeds))
        plain = {"name": self.name, "planned_twins": (), "provenance": {}}
        return AuditAnalysis(
            name=self.name,
            task=self.task,
            baseline=self.baseline,
            class_names=self.classes,
            group_names=names,
            group_rule=rule,
            candidates=tuple(audits),
            notes=(f"The test set has {self.n} images of each class.",),
            provenance={
                "baseline": {"path": "dense.npz", "sha256": "a3" * 32},
                "candidates": [{"path": "pruned.npz", "sha256": "b4" * 32}],
                "code_version": "0.1.0",
                "environment": {"python": "3.11.7", "numpy": "2.3.5"},
            },
            study=analyse(frames.build(rows), pd.DataFrame(), pd.DataFrame(), **plain),
        )


@pytest.fixture(scope="session")
def make_audit() -> Callable[..., AuditAnalysis]:
    """Return a maker of synthetic audits: ``make_audit(candidates={"int8": 0.3}, scores=False)``."""
    return lambda **shape: Maker(**shape).make()


@pytest.fixture(scope="session")
def audit(make_audit: Callable[..., AuditAnalysis]) -> AuditAnalysis:
    """An audit of one candidate over ten classes with a long tail."""
    return make_audit()
