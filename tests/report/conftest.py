"""A synthetic study: what an analysis hands to the report, without any training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tailkeep.analysis.deployment import latency_table
from tailkeep.analysis.pareto import PARETO_COLUMNS, on_frontier
from tailkeep.analysis.result import StudyAnalysis, Verdict

ARMS = {
    "dense": ("dense", "self", 0.0, 273_000, 41e6, 1_092_000),
    "filter-rank 0.5": ("technique", "dense", 2.1, 190_000, 27e6, 760_000),
    "QAT W8A8": ("technique", "dense", 0.05, 273_000, 41e6, 281_000),
    "QAT W8A4": ("technique", "dense", 1.2, 273_000, 41e6, 281_000),
    "distilled x0.5": ("technique", "teacher", 3.4, 69_000, 10.6e6, 277_000),
    "continued training": ("control", "dense", -0.3, 273_000, 41e6, 1_092_000),
    "student alone": ("control", "dense", 4.2, 69_000, 10.6e6, 277_000),
}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SENTENCES = {
    "not robust": "{m} loses more under imbalance than the dense model does: {e:+.1f} points beyond it.",
    "robust": "{m} is as robust to imbalance as the dense model: what it may lose beyond it is below {margin:g} point.",
    "more robust": "{m} loses less under imbalance than the dense model.",
    "cannot tell": "The {n} seeds do not settle whether {m} is less robust than the dense model.",
    "no claim": "Three seeds are too few for a verdict; the estimate for {m} is {e:+.1f} points.",
    "not available": "Without a balanced twin the excess gap of {m} cannot be computed.",
}


class Maker:
    """Draws numbers for a study of the given shape."""

    def __init__(self, **shape: Any) -> None:
        self.datasets = shape.get("datasets", ("cifar10",))
        self.models = shape.get("models", ("resnet20",))
        self.settings = shape.get("settings", ("exponential-10", "exponential-100"))
        self.classes = tuple(shape.get("classes", CLASSES))
        self.seeds = tuple(shape.get("seeds", (0, 1, 2)))
        self.twin = shape.get("twin", "full")
        self.arms = shape.get("arms", ARMS)
        self.failed = shape.get("failed", True)
        self.margin = 1.0
        self.draw = np.random.default_rng(7)

    def cells(self) -> list[tuple[str, str, str, float]]:
        """Every (dataset, setting, model) with a severity of the imbalance."""
        return [
            (dataset, setting, model, float(np.log10(max(_ratio(setting), 1.001))))
            for dataset in self.datasets
            for model in self.models
            for setting in self.settings
        ]

    def near(self, value: float, wide: float = 0.8) -> tuple[float, float, float]:
        """An estimate with its interval."""
        mid = value + self.draw.normal(0, wide / 4)
        half = wide * (1 + self.draw.random())
        return mid, mid - half, mid + half

    def accuracy(self) -> list[dict[str, Any]]:
        rows = []
        for dataset, setting, model, hard in self.cells():
            twins = [("imbalanced", 1.0)] + ([(self.twin, 0.0)] if self.twin != "none" else [])
            for twin, skew in twins:
                for method, (role, _, cost, *_rest) in self.arms.items():
                    value = 90 - 12 * hard * skew - cost * (1 + 0.5 * hard * skew)
                    rows.append(
                        {
                            "dataset": dataset,
                            "setting": setting,
                            "twin": twin,
                            "model": model,
                            "method": method,
                            "role": role,
                            "seeds": len(self.seeds),
                            "accuracy": value,
                            "accuracy_sd": 0.6,
                            "worst_recall": value - 18 * hard,
                            "worst_class": self.classes[-1],
                            "g_mean": value - 3,
                            "macro_f1": value - 1,
                            "macro_recall": value,
                        }
                    )
        return rows

    def gaps(self) -> list[dict[str, Any]]:
        rows = []
        for dataset, setting, model, hard in self.cells():
            for method, (role, reference, cost, *_rest) in self.arms.items():
                references = [reference, "student_alone"] if reference == "teacher" else [reference]
                for against in references:
                    shift = cost if against != "student_alone" else -0.8
                    drop = self.near(shift * (1 + 0.5 * hard))
                    gap = self.near(12 * hard + shift * 0.5 * hard)
                    excess = self.near(shift * 0.5 * hard) if role != "dense" else (0.0, 0.0, 0.0)
                    if role == "dense":
                        drop = (0.0, 0.0, 0.0)
                    if self.twin == "none":
                        gap = excess = (np.nan, np.nan, np.nan)
                    rows.append(
                        {
                            "dataset": dataset,
                            "setting": setting,
                            "twin": self.twin,
                            "model": model,
                            "method": method,
                            "role": role,
                            "reference": against,
                            "seeds": len(self.seeds),
                            "drop": drop[0],
                            "drop_low": drop[1],
                            "drop_high": drop[2],
                            "gap": gap[0],
                            "gap_low": gap[1],
                            "gap_high": gap[2],
                            "relative_gap": gap[0] / 90,
                            "excess": excess[0],
                            "excess_low": excess[1],
                            "excess_high": excess[2],
                        }
                    )
        return rows

    def seed_gaps(self, gaps: pd.DataFrame) -> list[dict[str, Any]]:
        keep = ["dataset", "setting", "twin", "model", "method", "role", "reference"]
        return [
            {
                **{k: row[k] for k in keep},
                "seed": seed,
                "accuracy": 75.0,
                "drop": row["drop"] + self.draw.normal(0, 0.4),
                "gap": row["gap"],
                "excess": row["excess"] + self.draw.normal(0, 0.4),
            }
            for row in gaps.to_dict("records")
            for seed in self.seeds
        ]

    def recall(self) -> list[dict[str, Any]]:
        rows = []
        many = len(self.classes)
        for dataset, setting, model, hard in self.cells():
            for method, (role, reference, cost, *_rest) in self.arms.items():
                for rank, name in enumerate(self.classes):
                    rare = rank / max(many - 1, 1)
                    change = -cost * (0.3 + 3.5 * rare * hard) + self.draw.normal(0, 0.7)
                    if role == "dense":
                        change = np.nan
                    value = float(np.clip(97 - 27 * hard * rare + (0 if role == "dense" else change), 1, 100))
                    rows.append(
                        {
                            "dataset": dataset,
                            "setting": setting,
                            "twin": "imbalanced",
                            "model": model,
                            "method": method,
                            "role": role,
                            "reference": reference,
                            "seeds": len(self.seeds),
                            "class_name": name,
                            "rank": rank,
                            "train_count": int(5000 * 10 ** (-hard * rare)),
                            "group": ("many", "medium", "few")[0 if rare < 0.3 else 1 if rare < 0.7 else 2],
                            "recall": value,
                            "recall_low": value - 2.1,
                            "recall_high": min(value + 2, 100.0),
                            "change": change,
                            "change_low": change - 1.5,
                            "change_high": change + 1.5,
                        }
                    )
        return rows

    def tail(self) -> list[dict[str, Any]]:
        rows = []
        for dataset, setting, model, hard in self.cells():
            for method, (role, reference, cost, *_rest) in self.arms.items():
                if role == "dense":
                    continue
                change = [-cost * x * (0.4 + hard) for x in (0.3, 1.0, 2.4)]
                rows.append(
                    {
                        "dataset": dataset,
                        "setting": setting,
                        "twin": "imbalanced",
                        "model": model,
                        "method": method,
                        "role": role,
                        "reference": reference,
                        "seeds": len(self.seeds),
                        "tail_share": change[0] - change[2],
                        "tail_share_low": change[0] - change[2] - 1.1,
                        "tail_share_high": change[0] - change[2] + 1.1,
                        "slope": 1 + cost / 12,
                        "excess_risk_gap": 0.1 * abs(cost),
                        "churn": 0.05 + 0.02 * abs(cost),
                        "churn_floor": 0.11,
                        "recall_change_many": change[0],
                        "recall_change_medium": change[1],
                        "recall_change_few": change[2],
                    }
                )
        return rows

    def size(self) -> list[dict[str, Any]]:
        return [
            {
                "dataset": dataset,
                "setting": setting,
                "twin": "imbalanced",
                "model": model,
                "method": method,
                "role": role,
                "weights": weights,
                "macs": macs,
                "packed_bytes": packed,
                "worst_recall": 70 - 22 * hard - 3 * cost,
                "accuracy": 80 - cost,
            }
            for dataset, setting, model, hard in self.cells()
            for method, (role, _, cost, weights, macs, packed) in self.arms.items()
        ]

    def verdicts(self) -> list[Verdict]:
        found = []
        for dataset in self.datasets:
            for model in self.models:
                for method, (role, reference, cost, *_rest) in self.arms.items():
                    if role != "technique":
                        continue
                    found.append(self.verdict(dataset, model, method, reference, cost))
        return found

    def verdict(self, dataset: str, model: str, method: str, reference: str, cost: float) -> Verdict:
        excess, low, high = self.near(cost * 0.75)
        if self.twin == "none":
            label = "not available"
        elif len(self.seeds) < 5:
            label = "no claim"
        else:
            label = "not robust" if low > 0.3 else "robust" if high < self.margin else "cannot tell"
        sentence = SENTENCES[label].format(m=method, e=excess, margin=self.margin, n=len(self.seeds))
        if self.twin == "none":
            return Verdict(dataset, model, method, reference, "none", label, len(self.seeds), sentence=sentence)
        return Verdict(
            dataset,
            model,
            method,
            reference,
            self.twin,
            label,
            len(self.seeds),
            excess,
            low,
            high,
            high + 0.2,
            0.004,
            0.012,
            0.0625,
            0.0625,
            sentence,
        )

    def make(self) -> StudyAnalysis:
        gaps = pd.DataFrame(self.gaps())
        failures = [
            {
                "dataset": self.datasets[0],
                "setting": self.settings[-1],
                "twin": "imbalanced",
                "model": self.models[0],
                "method": list(self.arms)[-1],
                "seed": self.seeds[-1],
                "reason": "nan",
                "detail": "the loss was NaN at step 812",
            }
        ]
        columns = list(failures[0])
        notes = ["The CIFAR-10 images are JPEG copies: expect a few points less than published."]
        if self.twin == "none":
            notes.append("E is not available: class truck has 12 images, a matched twin needs 103 of each class.")
        return StudyAnalysis(
            name="paper-small",
            margin=self.margin,
            primary_twin=self.twin,
            group_names=("many", "medium", "few"),
            group_rule="Thirds by frequency rank: the top three, middle four and bottom three classes.",
            accuracy_is="accuracy",
            seeds=self.seeds,
            verdicts=tuple(self.verdicts()),
            accuracy=pd.DataFrame(self.accuracy()),
            gaps=gaps,
            recall=pd.DataFrame(self.recall()),
            tail=pd.DataFrame(self.tail()),
            size=pd.DataFrame(self.size()),
            failures=pd.DataFrame(failures if self.failed else [], columns=columns),
            seed_gaps=pd.DataFrame(self.seed_gaps(gaps)),
            notes=tuple(notes),
            provenance={
                "spec": "name: paper-small\nseeds: [0, 1, 2]\nmodels:\n  - kind: resnet\n    depth: 20\n",
                "environment": {"python": "3.11.7", "torch": "2.13.0+cpu", "threads": 2, "device": "cpu"},
                "data": {"cifar10/train": "a3" * 32, "cifar10/test": "b4" * 32},
                "result_hash": "c5" * 32,
                "code_version": "0.1.0",
                "steps": 42,
                "compute_seconds": 5025.0,
            },
        )


def _ratio(setting: str) -> float:
    tail = setting.rsplit("-", 1)[-1]
    return float(tail) if tail.isdigit() else 1.0


@pytest.fixture(scope="session")
def make_analysis() -> Callable[..., StudyAnalysis]:
    """Return a maker of synthetic analyses: ``make_analysis(twin="none", seeds=range(5))``."""
    return lambda **shape: Maker(**shape).make()


@pytest.fixture(scope="session")
def analysis(make_analysis: Callable[..., StudyAnalysis]) -> StudyAnalysis:
    """A study of four techniques and two controls on two settings, ten classes and three seeds."""
    return make_analysis()


NO_KERNEL = "no kernel for 4-bit activations: size only, latency not measured"


def with_device(study: StudyAnalysis, batches: tuple[int, ...] = (1, 64)) -> StudyAnalysis:
    """The study with exported files, timed at these batch sizes; nothing timed QAT W8A4."""
    file = {"gzip_bytes": 0.9, "agreement": 0.9996, "worst_agreement": 0.98, "worst_agreement_class": "truck"}
    size = study.size.assign(**file, file_bytes=study.size["packed_bytes"] + 9000.0, largest_difference=0.01)
    size["gzip_bytes"] *= size["file_bytes"]
    cell = ["dataset", "setting", "twin", "model", "method", "role"]
    rows = []
    for each in size.to_dict("records"):
        timed = each["method"] != "QAT W8A4"
        ratio = (0.3 + 0.7 * each["macs"] / 41e6) if timed else np.nan
        for batch in batches:
            ms = 0.5 * batch * ratio
            ends = {"median_ms": ms, "low_ms": 0.98 * ms, "high_ms": 1.04 * ms}
            ratios = {"ratio": ratio, "ratio_low": ratio / 1.05, "ratio_high": ratio * 1.05}
            note = {"threads": 1, "bits_note": "" if timed else NO_KERNEL}
            rows.append({**{name: each[name] for name in cell}, "batch": batch, **ends, **ratios, **note})
    latency = latency_table(pd.DataFrame(rows) if rows else None)
    return replace(study, size=size, latency=latency, pareto=frontiers(size, latency, cell))


def frontiers(size: pd.DataFrame, latency: pd.DataFrame, cell: list[str]) -> pd.DataFrame:
    """The pareto table of these sizes and latencies, with the recalls of the sizes."""
    base = size[[*cell, "worst_recall", "accuracy"]].assign(seeds=3, worst_class="truck / ship")
    parts = []
    for axis in ("packed_bytes", "file_bytes", "macs"):
        cost = {"axis": axis, "batch": 0, "cost": size[axis].astype(float), "cost_low": np.nan, "cost_high": np.nan}
        parts.append(base.assign(**cost))
    timed = latency[latency["median_ms"].notna()]
    for batch in sorted(timed["batch"].unique()):
        mine = timed[timed["batch"] == batch].rename(
            columns={"median_ms": "cost", "low_ms": "cost_low", "high_ms": "cost_high"}
        )
        found = base.merge(mine[[*cell, "batch", "cost", "cost_low", "cost_high"]], on=cell)
        parts.append(found.assign(axis="latency"))
    table = pd.concat(parts, ignore_index=True).assign(on_frontier=False)
    for _, rows in table.groupby(["dataset", "setting", "model", "axis", "batch"]):
        table.loc[rows.index, "on_frontier"] = on_frontier(rows["cost"], rows["worst_recall"])
    return table[PARETO_COLUMNS]


@pytest.fixture(scope="session")
def deploy() -> Callable[..., StudyAnalysis]:
    """Return what gives a study exported and timed files: ``deploy(analysis, batches=())``."""
    return with_device


@pytest.fixture(scope="session")
def deployed(analysis: StudyAnalysis) -> StudyAnalysis:
    """The study of ``analysis``, exported and timed."""
    return with_device(analysis)
