"""The whole of it: search on validation, fix the order, ask the held-out split in that order, answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tailkeep.errors import BadInput
from tailkeep.files import results_folder, write_atomic, write_json
from tailkeep.recommend.answer import Recommendation
from tailkeep.recommend.batches import Batch, Runner, smaller_dense
from tailkeep.recommend.compose import compose
from tailkeep.recommend.decide import decide
from tailkeep.recommend.heldout import HeldOut
from tailkeep.recommend.predict_power import Forecaster
from tailkeep.recommend.register import order_record, write_order
from tailkeep.recommend.request import Request
from tailkeep.recommend.rungs import FACTOR, SHORT, need_optuna
from tailkeep.recommend.search import Search
from tailkeep.recommend.setup import Setup, set_up
from tailkeep.study.engine import needed
from tailkeep.study.estimate import duration, estimate
from tailkeep.study.runner import Options, Study
from tailkeep.study.spec import study_text
from tailkeep.study.stores import open_store

Say = Callable[[str], None]


def quiet(study: Study) -> dict[str, str]:
    """Do what is missing of a study without a word; return the reasons of failed steps by key."""
    return study.run().failed


def recommend_study(
    path: Path, say: Say = lambda line: None, runner: Runner = quiet, **settings: Any
) -> Recommendation:
    """Answer for a study file; ``settings`` are fields of ``Request`` and ``Options``. Raises ``BadInput``."""
    known = {field.name for field in fields(Request)}
    unknown = settings.keys() - known - {field.name for field in fields(Options)}
    if unknown:
        raise BadInput(f"recommend: unknown setting {sorted(unknown)[0]!r}; those of Request and Options are known")
    request = Request(**{name: value for name, value in settings.items() if name in known})
    given = {name: value for name, value in settings.items() if name not in known}
    options = Options(**{**given, "own": True})  # imported results have labels, and no model to deploy
    options = replace(options, store=open_store(options.store))
    need_optuna()
    setup = smaller_dense(set_up(path, request, options))
    if not setup.candidates:
        raise BadInput("there is no candidate: none of the study's methods runs on its models; name some in 'methods'")
    return recommend(setup, out_folder(request, setup.study.name), say, runner)


def recommend(setup: Setup, out: Path, say: Say, runner: Runner = quiet) -> Recommendation:
    """Search, order, decide and answer; write ``study.yaml``, ``order.json`` and ``recommendation.json``."""
    write_atomic(out / "study.yaml", study_text(setup.study))
    notes = list(setup.notes)
    request = setup.request
    forecaster = Forecaster(setup.sizes, request.limit, request.alpha)
    if forecaster.hopeless:
        few = ", ".join(f"{setup.class_names[i]!r} ({setup.sizes[i]})" for i in forecaster.hopeless[:5])
        notes.append(
            f"{len(forecaster.hopeless)} of {len(setup.sizes)} classes have too few held-out images to show that even "
            f"a model without a single flip keeps them within {request.max_class_drop:g} points ({few}); about "
            f"{forecaster.fewest} would do"
        )
    for note in notes:
        say(f"note: {note}")
    announce(setup, say)
    searched = Search(setup, forecaster, runner, say).run()
    batch = None
    decision = decide((), (), lambda name: [], request.confidence)
    if searched.order:
        held_out = HeldOut(setup, searched, quiet)
        batch = held_out.batch(1.0)
        digest = batch.study.resolved.datasets[setup.study.data[0].source.label]["test"]
        before = write_order(order_record(setup, searched, digest), out, open_store(setup.options.store))
        if before:
            notes.append(
                f"these held-out images decided {before} other question{'s' if before > 1 else ''} before: "
                "the confidence holds for each answer by itself, not for the best of them"
            )
        say(f"order fixed: {', '.join(searched.order)}")
        decision = decide(searched.order, searched.given_up, held_out.checks, request.confidence)
    answer = compose(setup, searched, decision, batch, notes, out)
    write_json(out / "recommendation.json", answer.to_dict())
    return answer


def out_folder(request: Request, study: str) -> Path:
    """Make the folder of the results, before any compute: another question's answer and order stay where they are.

    Raises ``BadInput`` where that cannot be done.
    """
    return results_folder(request.out or Path("tailkeep-results") / f"{study} recommend" / request.short)


def announce(setup: Setup, say: Say) -> None:
    """Say what will be searched, in how many trainings and about how long."""
    trained = [each for each in setup.candidates if each.trains]
    halved = len(trained) >= FACTOR
    say(f"{len(setup.candidates)} candidates against {setup.baseline}:")
    for each in setup.candidates:
        say(f"  {each.name}")
    whole = Batch(setup, setup.candidates, 1.0, "validation").study
    steps = needed(whole.plan, whole.store)
    seconds = estimate(whole.plan, whole.store, steps).seconds
    if halved:
        short = Batch(setup, trained, SHORT, "validation").study
        first = needed(short.plan, short.store)
        later = {key: step for key, step in steps.items() if key not in first}
        rest = estimate(whole.plan, whole.store, later).seconds / FACTOR
        seconds = estimate(short.plan, short.store, first).seconds + rest
        most = _trainings(later)
        count = f"{_trainings(first)} trainings, then about {-(-most // FACTOR)} of {most} to the end"
    else:
        count = f"{_trainings(steps)} trainings"
    worked = seconds / max(1, setup.options.worker_count)
    say(f"to do: {count}; {duration(worked)} with {setup.options.worker_count} at a time (a rough guess)")


def _trainings(steps: dict[str, Any]) -> int:
    """The steps that train for any length."""
    recipes = [step.spec["recipe"] for step in steps.values() if "recipe" in step.spec]
    return sum(bool(recipe["steps"] if recipe["steps"] is not None else recipe["epochs"]) for recipe in recipes)
