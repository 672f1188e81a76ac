"""An audit from its inputs to its result: arrays from Python, or the files of a request."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tailkeep import __version__
from tailkeep.analysis.audit import AuditAnalysis, CandidateAudit
from tailkeep.analysis.bootstrap import RESAMPLES
from tailkeep.analysis.gate import Check, CheckResult, Gate, alpha_of, gate
from tailkeep.analysis.negatives import false_positive_warning
from tailkeep.analysis.pair_scores import ScoreFigures, figures_of_scores
from tailkeep.analysis.pairs import PairTables, pair_tables, seed_table
from tailkeep.analysis.slices import FREQUENCY
from tailkeep.auditing import remarks, study_frame
from tailkeep.auditing.arrays import from_arrays
from tailkeep.auditing.cells import check_text
from tailkeep.auditing.counts import as_counts
from tailkeep.auditing.flips import flips
from tailkeep.auditing.policy import Counts, Policy, checks, make_policy, read_policy
from tailkeep.auditing.predictions import Predictions
from tailkeep.auditing.request import MOST_RESAMPLES
from tailkeep.auditing.result import Audit
from tailkeep.errors import BadInput

CUTS = (20, 100)
Pair = tuple[Predictions, Predictions]


@dataclass(frozen=True, eq=False)
class Question:
    """Everything that an audit is, its models' answers read and paired: candidate by candidate, a pair a seed."""

    name: str
    candidates: Sequence[tuple[str, Sequence[Pair]]]
    policy: Policy
    train_counts: NDArray[np.int64] | None = None
    resamples: int = RESAMPLES
    seed: int = 0
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


def audit(
    y_true: Any,
    baseline: Any,
    candidate: Any,
    *,
    class_names: Sequence[Any] | None = None,
    train_counts: Mapping[Any, int] | Sequence[int] | None = None,
    groups: Mapping[str, Any] | None = None,
    max_class_drop: float = 2.0,
    max_false_positive_rise: float | None = None,
    confidence: float = 0.95,
    policy: Policy | str | Path | None = None,
    scores: str = "auto",
    threshold: float = 0.5,
    n_boot: int = RESAMPLES,
    seed: int = 0,
    ids: Any = None,
    name: str = "audit",
) -> Audit:
    """Compare a model before and after compression on the same examples: who pays, how sure, and does the gate pass?

    ``y_true`` (N,) holds class indices or names (multi-label: 0 and 1 (N, C)); ``baseline`` and ``candidate`` hold
    answers (N,) of the same kind, or scores (N, C), logits or probabilities. Several candidates are a mapping from
    names to answers. Several seeds are lists of arrays, compared in pairs. ``train_counts`` are training images by
    class, in order or by name: with them there are many, medium and few groups. ``groups`` maps the name of a slice
    column to a value an example. ``max_class_drop`` is in percentage points of recall, ``max_false_positive_rise``
    (None: not asked) in percentage points of the images that are not of a class; a ``policy`` (an object or a YAML
    file) brings limits by class and group, and replaces them and ``confidence``. ``n_boot`` is the number of bootstrap
    resamples.

    Returns an ``Audit``. Raises BadInput where the input cannot be used.
    """
    named = candidate if isinstance(candidate, Mapping) else {"candidate": candidate}
    _check_arguments(named, n_boot, seed)
    before = _seeds(baseline)
    after = {str(key): _seeds(value) for key, value in named.items()}
    for key, models in after.items():
        if len(models) != len(before):
            raise BadInput(f"{key}: {len(models)} seeds for {len(before)} of the baseline; seeds are compared in pairs")
    answers = [("baseline", values) for values in before] + [(k, values) for k, v in after.items() for values in v]
    made = from_arrays(
        y_true, answers, class_names=class_names, scores=scores, threshold=threshold, ids=ids, groups=groups,
        classes=0 if train_counts is None or isinstance(train_counts, Mapping) else len(train_counts),
    )  # fmt: skip
    rest = iter(made[len(before) :])
    pairs = [(key, [(first, next(rest)) for first in made[: len(before)]]) for key in after]
    if policy is None:
        policy = make_policy(
            max_class_drop=max_class_drop, confidence=confidence, max_false_positive_rise=max_false_positive_rise,
            python=True,
        )  # fmt: skip
    elif not isinstance(policy, Policy):
        policy = read_policy(Path(policy))
    counts = as_counts(train_counts, made[0].class_names)
    return answer(Question(name, pairs, policy, counts, n_boot, seed))


def _check_arguments(named: Mapping[Any, Any], n_boot: int, seed: int) -> None:
    """Refuse what has no meaning, before anything is read."""
    if not named:
        raise BadInput("candidate: there is none")
    for key in named:
        check_text("candidate: the name", str(key))
    if not 1 <= n_boot <= MOST_RESAMPLES:
        raise BadInput(f"n_boot {n_boot}: expected 1 to {MOST_RESAMPLES:,} resamples")
    if seed < 0:
        raise BadInput(f"seed {seed}: expected 0 or more")


def answer(question: Question) -> Audit:
    """Return what the pairs of a question show."""
    found, frames = [], []
    said: list[tuple[str, list[str]]] = []
    figures: dict[int, ScoreFigures] = {}  # a baseline's, worked out once for all candidates
    first: PairTables | None = None
    for name, pairs in question.candidates:
        tables, own_notes = [], remarks.of_pairs(pairs)
        for number, (before, after) in enumerate(pairs):
            if id(before) not in figures:
                figures[id(before)] = figures_of_scores(before)
            own = figures[id(before)]
            made = pair_tables(
                before, after, train_counts=question.train_counts, cuts=CUTS, level=question.policy.confidence,
                resamples=question.resamples, seed=question.seed, baseline_scores=own,
            )  # fmt: skip
            tables.append(made)
            frames.append(
                study_frame.rows(
                    question.name, before.name, name, number, made.counts, before.class_names, question.train_counts,
                    made.scores,
                )
            )  # fmt: skip
            own_notes += made.notes if len(pairs) == 1 else [f"pair {number + 1}: {note}" for note in made.notes]
        first = first or tables[0]
        one, more = _candidate(name, pairs, tables, question)
        found.append(one)
        said.append((name, [*one.warnings, *own_notes, *more]))
    assert first is not None
    before = question.candidates[0][1][0][0]
    table = pd.concat(frames, ignore_index=True).drop_duplicates(ignore_index=True)
    general = [*question.policy.notes, *question.notes, *remarks.of_classes(before.class_names)]
    notes = list(dict.fromkeys([*general, *remarks.told_apart(said)]))
    provenance = _provenance(question, table)
    analysis = AuditAnalysis(
        name=question.name,
        task=before.task,
        baseline=before.name,
        class_names=before.class_names,
        group_names=first.frequency.names,
        group_rule=first.frequency.rule,
        candidates=tuple(found),
        notes=tuple(notes),
        provenance=provenance,
        study=study_frame.as_study(table, question.name, CUTS, provenance, notes),
    )
    return Audit(analysis, table)


def _candidate(
    name: str, pairs: Sequence[Pair], tables: Sequence[PairTables], question: Question
) -> tuple[CandidateAudit, list[str]]:
    """Return one candidate's part. Of several seeds, the tables are those of the pair that comes off worst."""
    asked = [_checks(question.policy, made) for made in tables]
    whole = gate([check for part in asked for check in part], question.policy.confidence)
    parts, start = [], 0
    for part in asked:
        parts.append(whole.results[start : start + len(part)])
        start += len(part)
    worst = max(range(len(parts)), key=lambda index: _badness(parts[index]))
    notes = []
    if len(pairs) > 1:
        notes.append(
            f"{len(pairs)} pairs of seeds, each put to the gate; the tables show the one that comes off worst, "
            f"number {worst + 1} ({pairs[worst][1].name}); flipped images are those whose most frequent answer differs"
        )
    made = tables[worst]
    befores, afters = [before for before, _ in pairs], [after for _, after in pairs]
    one = CandidateAudit(
        name=name,
        gate=Gate(parts[worst], whole.confidence, whole.decision),
        classes=made.classes,
        groups=made.groups,
        summary=made.summary,
        flips=flips(befores, afters, question.train_counts),
        seeds=seed_table([each.classes for each in tables]) if len(pairs) > 1 else None,
        caveat=remarks.caveat(befores[0], asked[worst]),
        warnings=_warnings(befores[0], tables, question.policy),
    )
    return one, notes


def _warnings(before: Predictions, tables: Sequence[PairTables], policy: Policy) -> tuple[str, ...]:
    """Return what the gate on recall does not see, of every pair of seeds."""
    found = [
        false_positive_warning(
            made.counts, before.class_names, before.task == "multilabel", policy.max_class_drop,
            alpha_of(policy.confidence),
        )
        for made in tables
    ]  # fmt: skip
    several = len(tables) > 1
    return tuple(f"pair {i + 1}: {one}" if several else one for i, one in enumerate(found) if one is not None)


def _badness(results: Sequence[CheckResult]) -> tuple[int, float]:
    return sum(result.decision == "broken" for result in results), max(result.p_kept for result in results)


def _checks(policy: Policy, made: PairTables) -> list[Check]:
    """Return the gate's questions; a group is called by its name, a slice "column=value"."""
    joint = made.counts.joint
    classes = Counts(
        tuple(made.classes["class_name"]), made.counts.n, joint[:, 1], joint[:, 2], joint[:, 0] + joint[:, 2],
        made.counts.negatives,
    )  # fmt: skip
    rows = made.groups
    named = tuple(
        name if kind == FREQUENCY else f"{kind}={name}" for kind, name in zip(rows["kind"], rows["name"], strict=True)
    )
    n, n11, n10, n01 = (rows[column].to_numpy(dtype=np.int64) for column in ("n", "n11", "n10", "n01"))
    counted = bool(made.classes["train_count"].notna().any())
    return checks(policy, classes, Counts(named, n, n10, n01, n11 + n01), counted)


def _provenance(question: Question, table: pd.DataFrame) -> dict[str, Any]:
    """Return what the figures can be traced to: files, policy, options, versions, and a hash of the counts."""
    counts = table.drop(columns="loss_sum").to_csv(index=False).encode("utf-8")
    pairs = dict(question.candidates)
    return {
        "baseline": _sources([before for before, _ in question.candidates[0][1]]),
        "candidates": {name: _sources([after for _, after in own]) for name, own in pairs.items()},
        "policy": question.policy.plain(),
        "bootstrap": {"resamples": question.resamples, "seed": question.seed},
        "result_hash": hashlib.sha256(counts).hexdigest(),
        "code_version": __version__,
        "environment": {"numpy": np.__version__, "pandas": pd.__version__},
        **question.provenance,
    }


def _sources(seeds: Sequence[Predictions]) -> dict[str, Any]:
    return dict(seeds[0].source) if len(seeds) == 1 else {str(i): dict(one.source) for i, one in enumerate(seeds)}


def _seeds(answers: Any) -> list[Any]:
    """Return the seeds' answers; a list of arrays is several, a plain list of values is one."""
    several = isinstance(answers, (list, tuple)) and answers and all(hasattr(one, "__array__") for one in answers)
    # numpy's own numbers are arrays of no dimension: a list of them is one seed
    return list(answers) if several and all(np.ndim(one) >= 1 for one in answers) else [answers]
