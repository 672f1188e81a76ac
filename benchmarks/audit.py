"""The audit against Fairlearn's bootstrap and scikit-learn's metrics, and a million rows from the file to the verdict.

    pip install fairlearn pyarrow
    python benchmarks/audit.py [--rows 100000] [--classes 10] [--rounds 3] [--skip-fairlearn]

Fairlearn's MetricFrame resamples the rows of one model and works out a recall a class; ours resamples a pair and works
out six summaries. All take turns in one process; printed are medians, and the values are first held against each
other (1e-12). Aims: 10,000 times Fairlearn's speed a resample; 1,000,000 rows and 1,000 classes from two Parquet files
to the gate in 5 s and 2 GB, in a process of its own (CPU time is printed beside, for a machine that does other work).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn import metrics as scikit

from tailkeep.analysis.bootstrap import RESAMPLES, bootstrap
from tailkeep.analysis.pair_counts import count_pair
from tailkeep.analysis.pairs import pair_tables
from tailkeep.auditing.predictions import Predictions

CHILD = """
import json, resource, sys, time
start = time.perf_counter()
from pathlib import Path
from tailkeep.auditing.files import audit_files
from tailkeep.auditing.request import AuditRequest
from tailkeep.auditing.tables import read_predictions
import pyarrow.parquet
folder = Path(sys.argv[1])
request = AuditRequest((folder / "dense.parquet",), (("int8", (folder / "int8.parquet",)),),
                       train_counts=folder / "train.json", resamples=int(sys.argv[2]))
imported, cpu = time.perf_counter(), time.process_time()
result = audit_files(request)
done = time.perf_counter()
cpu = time.process_time() - cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
read = time.perf_counter()
for name in ("dense", "int8"):
    read_predictions(folder / f"{name}.parquet")
read = time.perf_counter() - read
one = result.candidates[0]
print(json.dumps({"import": imported - start, "whole": done - imported, "cpu": cpu, "read": read, "peak_mb": peak,
                  "classes": len(one.classes), "flips": len(one.flips), "decision": one.gate.decision}))
"""


def answers(rows: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, and two models' answers: recalls 0.5 to 0.95, about 6 % of the answers changed."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, rows)

    def wrong() -> np.ndarray:
        return (labels + rng.integers(1, classes, rows)) % classes

    before = np.where(rng.random(rows) < np.linspace(0.95, 0.5, classes)[labels], labels, wrong())
    after = np.where(rng.random(rows) < 0.94, before, np.where(rng.random(rows) < 0.45, labels, wrong()))
    return labels, before, after


def models(rows: int, classes: int) -> tuple[Predictions, Predictions]:
    labels, before, after = answers(rows, classes)
    names = tuple(str(index) for index in range(classes))
    return Predictions("dense", labels, before, names), Predictions("int8", labels, after, names)


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def same(what: str, ours: object, theirs: object) -> None:
    difference = float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())
    assert difference <= 1e-12, f"{what}: differs by {difference}"
    print(f"  {what:<38} equal (largest difference {difference:.1e})")


def against_scikit(dense: Predictions, small: Predictions, rounds: int) -> None:
    classes = len(dense.class_names)
    found = pair_tables(dense, small, resamples=1)
    summary = found.summary.set_index("metric")["candidate"] / 100
    theirs = {
        "accuracy": lambda: scikit.accuracy_score(small.labels, small.predicted),
        "balanced_accuracy": lambda: scikit.balanced_accuracy_score(small.labels, small.predicted),
        "macro_f1": lambda: scikit.f1_score(small.labels, small.predicted, average="macro"),
    }
    recall = scikit.recall_score(small.labels, small.predicted, labels=range(classes), average=None)
    same("recall of every class, scikit-learn", found.classes["recall"] / 100, recall)
    for name, run in theirs.items():
        same(f"{name}, scikit-learn", summary[name], run())
    times = [(seconds(lambda: count_pair(dense, small)), sum(map(seconds, theirs.values()))) for _ in range(rounds)]
    ours, other = (1000 * statistics.median(column) for column in zip(*times, strict=True))
    print(f"  counts of the pair {ours:.2f} ms; scikit-learn's three metrics of one model {other:.1f} ms")


def against_fairlearn(dense: Predictions, small: Predictions, rounds: int, resamples: int) -> None:
    try:
        from fairlearn.metrics import MetricFrame
    except ImportError:
        print("Fairlearn is not installed: pip install fairlearn")
        return

    def frame(times: int | None) -> object:
        more = {} if times is None else {"n_boot": times, "ci_quantiles": [0.025, 0.975], "random_state": 0}
        return MetricFrame(
            metrics=scikit.accuracy_score, y_true=small.labels, y_pred=small.predicted, sensitive_features=small.labels,
            **more,
        )  # fmt: skip

    counts = count_pair(dense, small)
    plain = frame(None)
    same("recall of every class, Fairlearn", counts.candidate.tp / counts.n, plain.by_group)  # type: ignore[attr-defined]
    same("accuracy, Fairlearn", counts.candidate.tp.sum() / counts.rows, plain.overall)  # type: ignore[attr-defined]
    few = 3
    theirs, ours = [], []
    for _ in range(rounds):
        theirs.append((seconds(lambda: frame(few)) - seconds(lambda: frame(None))) / few)
        ours.append(seconds(lambda: bootstrap(counts.joint, resamples)) / resamples)
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    print(f"  Fairlearn {1000 * statistics.median(theirs):.1f} ms a resample, one model, one metric")
    print(f"  tailkeep  {1e6 * statistics.median(ours):.2f} us a resample, a pair, six summaries")
    print(f"  ratio: median {statistics.median(ratios):,.0f} ({min(ratios):,.0f} to {max(ratios):,.0f})")
    if statistics.median(ratios) < 10_000:
        print("  below the aim of 10,000")


def from_the_file(rows: int, classes: int, rounds: int, resamples: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels, before, after = answers(rows, classes)
    with tempfile.TemporaryDirectory() as folder:
        for name, guess in (("dense", before), ("int8", after)):
            pq.write_table(pa.table({"label": labels, "prediction": guess}), Path(folder) / f"{name}.parquet")
        train = {str(index): int(1000 * 100 ** (-index / classes)) for index in range(classes)}
        (Path(folder) / "train.json").write_text(json.dumps(train))
        found = []
        for _ in range(rounds):
            command = [sys.executable, "-c", CHILD, folder, str(resamples)]
            found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    one = found[0]
    print(f"{rows:,} rows x {classes:,} classes, {resamples:,} resamples, from two Parquet files to the gate:")
    print(f"  {one['classes']:,} classes, {one['flips']:,} flipped images, decision: {one['decision']}")
    for key, text in (
        ("whole", "wall time"),
        ("cpu", "CPU time"),
        ("read", "of it reading"),
        ("import", "imports before"),
    ):
        values = [each[key] for each in found]
        print(f"  {text:<15} median {statistics.median(values):6.2f} s ({min(values):.2f} to {max(values):.2f})")
    print(f"  peak memory     {max(each['peak_mb'] for each in found):,.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--many-rows", type=int, default=1_000_000)
    parser.add_argument("--many-classes", type=int, default=1_000)
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip-fairlearn", action="store_true")
    options = parser.parse_args()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{os.cpu_count()} cores, load {load}, numpy {np.__version__}, {options.rounds} rounds")
    print(f"{options.rows:,} rows x {options.classes} classes:")
    dense, small = models(options.rows, options.classes)
    against_scikit(dense, small, options.rounds)
    if not options.skip_fairlearn:
        against_fairlearn(dense, small, options.rounds, options.resamples)
    from_the_file(options.many_rows, options.many_classes, options.rounds, options.resamples)


if __name__ == "__main__":
    main()
