"""From the search and the decision to the answer, in numbers and in one sentence."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tailkeep import __version__
from tailkeep.analysis import power, tango
from tailkeep.recommend.answer import ClassEvidence, Evidence, Recommendation, Tried
from tailkeep.recommend.batches import Batch
from tailkeep.recommend.decide import NOTHING, SAFE, Decision, Looked
from tailkeep.recommend.predict_power import fewest_images
from tailkeep.recommend.search import WAITING, Found, Searched
from tailkeep.recommend.setup import Setup

NAMED = 5
"""Classes that a sentence names."""


def compose(
    setup: Setup, searched: Searched, decision: Decision, batch: Batch | None, notes: Sequence[str], out: Path
) -> Recommendation:
    """Return the answer. ``batch`` holds the finalists, from which the chosen model's place is read."""
    frontier = tuple(_tried(each, setup, searched, decision) for each in searched.found.values())
    evidence = tuple(_evidence(each, setup) for each in decision.looked)
    chosen = None
    if decision.status == SAFE:
        chosen = min(decision.passed, key=lambda name: (searched.found[name].cost["packed_bytes"], name))
    place, export = None, None
    if chosen is not None and batch is not None:
        store, kind, key = batch.place(chosen)
        file = store.file_address(kind, key, "model.safetensors")
        place = {"store": store.address, "kind": kind, "key": key, "file": file}
        export = _export(setup, searched.found[chosen], out)
    request = setup.request
    return Recommendation(
        study=setup.study.name,
        status=decision.status,
        sentence=_sentence(setup, searched, decision, chosen, evidence),
        chosen=chosen,
        baseline={"model": setup.baseline, "seed": setup.seed, **searched.baseline},
        question={
            **{"max_class_drop": request.max_class_drop, "confidence": request.confidence},
            "budget": None if request.budget is None else request.budget.words,
            "held_out_images": dict(zip(setup.class_names, setup.sizes, strict=True)),
            "validation_per_class": setup.study.validation_per_class,
        },
        evidence=evidence,
        frontier=frontier,
        order=tuple(searched.order),
        stopped=decision.stopped,
        broken=decision.broken or {} if decision.status == NOTHING else {},
        place=place,
        export=export,
        notes=tuple(notes),
        provenance={"code_version": __version__},
        folder=str(out),
    )


def _tried(each: Found, setup: Setup, searched: Searched, decision: Decision) -> Tried:
    status = each.status
    if status == WAITING:
        looked = {one.name for one in decision.looked}
        status = "passed" if each.candidate.name in decision.passed else status
        status = "not passed" if status == WAITING and each.candidate.name in looked else status
    size = each.cost.get("packed_bytes")
    losses: dict[str, Any] = dict.fromkeys(("worst_loss", "worst_low", "worst_high", "mean_loss"))
    worst = ""
    if each.counts is not None:
        n, n10, n01 = (np.array(values) for values in (each.counts.n, each.counts.n10, each.counts.n01))
        low, high = tango.interval(n10, n01, n, setup.request.confidence)
        loss = (n10 - n01) / n
        at = int(loss.argmax())
        worst = setup.class_names[at]
        figures = (loss[at], low[at], high[at], loss.mean())
        losses = dict(zip(losses, (float(value) for value in figures), strict=True))
    name = each.candidate.name
    return Tried(
        name=name,
        model=each.candidate.model,
        method=each.candidate.method,
        status=status,
        detail=each.detail,
        place=searched.order.index(name) + 1 if name in searched.order else None,
        trained=each.share,
        packed_bytes=size,
        times_smaller=searched.baseline["packed_bytes"] / size if size and searched.baseline else None,
        macs=each.cost.get("macs"),
        latency_ms=each.cost.get("latency_ms"),
        power=None if each.forecast is None else each.forecast.power,
        worst_class=worst,
        **losses,
    )


def _evidence(looked: Looked, setup: Setup) -> Evidence:
    results = looked.gate.results
    open_ones = [place for place, result in enumerate(results) if result.decision == "cannot tell"]
    needed: dict[int, int | None] = {}
    if open_ones:
        shares = [(results[p].check.n10 + results[p].check.n01) / results[p].check.n for p in open_ones]
        # Every class must pass: for 80 % in all each needs more.
        goal = power.POWER ** (1 / len(results))
        found = power.images_needed(shares, setup.request.limit, setup.request.alpha, goal)
        needed = dict(zip(open_ones, found, strict=True))
    classes = tuple(
        ClassEvidence(
            name=r.check.name,
            n=r.check.n,
            n10=r.check.n10,
            n01=r.check.n01,
            loss=r.estimate,
            low=r.low,
            high=r.high,
            p_kept=r.p_kept,
            p_broken=r.p_broken_adjusted,
            decision=r.decision,
            images_needed=needed.get(place),
        )
        for place, r in enumerate(results)
    )
    return Evidence(looked.name, looked.gate.decision, classes)


def _export(setup: Setup, found: Found, out: Path) -> str:
    """The command that writes the chosen model as a file, from the study that lies beside the answer."""
    words = ["tailkeep", "export", str(out / "study.yaml"), "--method", found.candidate.method]
    words += ["--model", found.candidate.model, "--seed", str(setup.seed), "--store", str(setup.options.store)]
    if setup.options.data_root is not None:
        words += ["--data-root", str(setup.options.data_root)]
    if setup.options.model_code is not None:
        words += ["--model-code", setup.options.model_code]
    return shlex.join(words)


def _sentence(
    setup: Setup, searched: Searched, decision: Decision, chosen: str | None, evidence: tuple[Evidence, ...]
) -> str:
    request = setup.request
    limit = f"{request.max_class_drop:g} point{'' if request.max_class_drop == 1 else 's'}"
    sure = f"{100 * request.confidence:g} % confidence"
    if chosen is not None:
        size = searched.found[chosen].cost["packed_bytes"]
        times = searched.baseline["packed_bytes"] / size
        return (
            f"{chosen} is safe: {times:.1f} times smaller than {setup.baseline} ({size:,} packed bytes), and shown to "
            f"lose less than {limit} of recall in each of the {len(setup.class_names)} classes, with {sure}."
        )
    if not searched.order:
        return f"No candidate was left to test: {_why_none(searched)}."
    if decision.status == NOTHING:
        early = len(decision.looked) - len(searched.order)
        after = f" ({early} of them as they stood when the search gave them up)" if early else ""
        classes = dict.fromkeys(name for names in (decision.broken or {}).values() for name in names)
        return (
            f"Nothing is safe: each of the {len(decision.looked)} candidates in budget{after} is shown to lose more "
            f"than {limit} in some class, with {sure} over all of them. Classes: {_listed(list(classes))}."
        )
    first = evidence[0]
    open_ones = [each for each in first.classes if each.decision != "kept"]
    lost = [each.name for each in first.classes if each.decision == "broken"]
    say = (
        f"Cannot tell: the likeliest candidate, {first.name}, is not shown to keep "
        f"{_listed([each.name for each in open_ones])} within {limit}"
    )
    say += f" ({_listed(lost)}: shown to lose more)" if lost else ""
    if min(setup.sizes) < fewest_images(request.limit, request.alpha):
        return (
            f"{say}; with {min(setup.sizes)} held-out images in the smallest class not even a model without a single "
            f"flip could be: that takes about {fewest_images(request.limit, request.alpha)}."
        )
    return f"{say}, and not every candidate is shown to lose more."


def _why_none(searched: Searched) -> str:
    counts: dict[str, int] = {}
    for each in searched.found.values():
        counts[each.status] = counts.get(each.status, 0) + 1
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def _listed(names: list[str]) -> str:
    quoted = [f"{name!r}" for name in names[:NAMED]]
    return ", ".join(quoted) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
