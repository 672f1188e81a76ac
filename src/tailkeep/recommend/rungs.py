"""Successive halving: all candidates train for a quarter of their recipe, the likeliest quarter of them to its end.

Li et al. 2018, "Hyperband" (JMLR 18:185), and its asynchronous form in Li et al. 2020, as optuna's pruner has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tailkeep.errors import MissingExtra
from tailkeep.training.recipe import Decay, Milestones, Recipe

FACTOR = 4
"""Of so many candidates one goes on, to so many times the length."""
SHORT = 1 / FACTOR


def shortened(recipe: Recipe, share: float) -> Recipe:
    """Return a recipe of ``share`` of the length, its schedule shrunk with it."""
    if share == 1:
        return recipe
    changes: dict[str, object] = {"warmup": recipe.warmup * share}
    if recipe.steps is not None:
        changes["steps"] = round(recipe.steps * share)
    else:
        changes["epochs"] = (recipe.epochs or 0) * share
    if isinstance(recipe.schedule, Milestones):
        changes["schedule"] = recipe.schedule.model_copy(update={"at": tuple(at * share for at in recipe.schedule.at)})
    elif isinstance(recipe.schedule, Decay):
        slower = {"start": recipe.schedule.start * share, "gamma": recipe.schedule.gamma ** (1 / share if share else 1)}
        changes["schedule"] = recipe.schedule.model_copy(update=slower)
    return recipe.model_copy(update=changes)


def halve(scores: Mapping[str, float]) -> set[str]:
    """Return the names that go on, by optuna's ``SuccessiveHalvingPruner`` (in memory). Higher scores are better.

    The pruner judges a trial against those that reported before it. Here all of a rung is known before any is judged,
    so it is asked of each candidate as the last to report: the outcome does not hang on their order. Of fewer than
    ``FACTOR`` all go on. Raises ``MissingExtra`` without optuna.
    """
    if len(scores) < FACTOR:
        return set(scores)
    optuna = need_optuna()
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return {name for name in scores if _goes_on(optuna, name, scores)}
    finally:
        optuna.logging.set_verbosity(level)


def _goes_on(optuna: Any, name: str, scores: Mapping[str, float]) -> bool:
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=FACTOR)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    stopped = False
    for each in [*(other for other in scores if other != name), name]:
        trial = study.ask()
        trial.report(scores[each], step=1)
        stopped = trial.should_prune()
    return not stopped


def need_optuna() -> Any:
    """Import optuna. Raises ``MissingExtra`` with the command that installs it."""
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra(
            f"optuna is needed to search and cannot be imported ({error}); pip install 'tailkeep[recommend]'"
        ) from error
    return optuna
