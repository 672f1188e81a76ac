"""The smallest model that keeps every class: a search on validation images, one gate on a split that it never saw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailkeep.recommend.answer import Recommendation

__all__ = ["recommend"]


def recommend(study: Path | str, say: Callable[[str], None] = lambda line: None, **settings: Any) -> Recommendation:
    """Return the smallest safe model of a study file, or say that there is none, or that the data cannot tell.

    ``settings`` are the fields of ``request.Request`` (``max_class_drop=2``, ``smaller=4``...) and those of
    ``study.runner.Options`` (``store``, ``workers``...). ``say`` gets a line at a time of what happens. Raises
    ``BadInput`` where the study, the budget or the baseline cannot be used.
    """
    from tailkeep.recommend.run import recommend_study

    return recommend_study(Path(study), say=say, **settings)
