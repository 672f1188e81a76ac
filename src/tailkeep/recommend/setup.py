"""From a study file to what is searched: one setting, one seed, a baseline, candidates, images to choose by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tailkeep.errors import BadInput
from tailkeep.recommend.candidates import Candidate, candidates_of
from tailkeep.recommend.request import Request
from tailkeep.recommend.space import built_in
from tailkeep.study.runner import Options
from tailkeep.study.spec import Controls, StudySpec, load_study
from tailkeep.yaml_reader import hint

SHARE, MOST, FEWEST = 0.16, 500, 5
"""What is held out where a study says nothing: a share of the poorest class's images, at most and at least so many."""


@dataclass(frozen=True)
class Setup:
    """``study`` is the whole study with its candidates written out, in the form that ``tailkeep export`` reads.

    ``sizes`` (C,) are the held-out (test) images of every class; of that split nothing else is known here.
    """

    study: StudySpec
    request: Request
    options: Options
    baseline: str
    seed: int
    candidates: tuple[Candidate, ...]
    class_names: tuple[str, ...]
    sizes: tuple[int, ...]
    notes: tuple[str, ...]

    def candidate(self, name: str) -> Candidate:
        """Return the candidate of this name."""
        return next(each for each in self.candidates if each.name == name)


def set_up(path: Path, request: Request, options: Options) -> Setup:
    """Read and check a study file. Raises ``BadInput`` before any compute."""
    study, _ = load_study(path, options.overrides)
    notes: list[str] = []
    _one_setting(study)
    labels = [model.label for model in study.models]
    baseline = _baseline(request.baseline, labels)
    seed = study.seeds[0] if request.seed is None else request.seed
    if seed not in study.seeds:
        raise BadInput(f"--seed {seed}: the study's seeds are {', '.join(map(str, study.seeds))}")
    if len(study.seeds) > 1:
        notes.append(f"the study has {len(study.seeds)} seeds; the model of seed {seed} is the one that is tested")
    if not study.methods:
        from tailkeep.study.deploy import integer_sums_saturate

        study = study.model_copy(update={"methods": built_in(study, integer_sums_saturate())})
        notes.append(f"the study names no methods: the built-in space of {len(study.methods)} methods is searched")
    dataset = study.data[0].source.load(options.data_root, options.cache)
    held_out, said = _validation(study, dataset)
    notes += said
    changes: dict[str, Any] = {
        "balanced": "none",
        "controls": Controls(continued=False, student_alone=False, churn_floor=False),
        "validation_per_class": held_out,
        "evaluate": "test",
        "export": None,
    }
    study = StudySpec.model_validate(study.model_copy(update=changes).plain())
    sizes = np.bincount(dataset.test.labels, minlength=len(dataset.class_names)).tolist()
    empty = [name for name, size in zip(dataset.class_names, sizes, strict=True) if size == 0]
    if empty:
        raise BadInput(f"class {empty[0]!r} has no test image, so nobody can say whether a model keeps it; add some")
    candidates = candidates_of(study, baseline, tuple(label for label in labels if label != baseline))
    names = tuple(dataset.class_names)
    return Setup(study, request, options, baseline, seed, candidates, names, tuple(sizes), tuple(notes))


def without(setup: Setup, names: set[str]) -> Setup:
    """Return the setup without some of its candidates."""
    return replace(setup, candidates=tuple(each for each in setup.candidates if each.name not in names))


def _one_setting(study: StudySpec) -> None:
    if len(study.data) > 1:
        raise BadInput(f"the study has {len(study.data)} datasets; a model is recommended for one: leave one in 'data'")
    settings = study.data[0].imbalance or study.imbalance
    if len(settings) > 1:
        found = ", ".join(profile.label for profile in settings)
        raise BadInput(f"the study has {len(settings)} imbalance settings ({found}); leave the one that the data has")


def _baseline(given: str | None, labels: list[str]) -> str:
    """The model that candidates are compared with: what counts as lost hangs on it, so of several it must be named."""
    if given is not None and given not in labels:
        raise BadInput(f"--baseline {given}: the study has no such model{hint(given, labels)}")
    if given is None and len(labels) > 1:
        raise BadInput(
            f"the study has {len(labels)} models ({', '.join(labels)}); say with --baseline which one is in use now, "
            "since a class's loss is counted from it"
        )
    return given or labels[0]


def _validation(study: StudySpec, dataset: Any) -> tuple[int, list[str]]:
    """Images of every class to hold out from training, and a note where that was decided here."""
    counts = np.bincount(dataset.train.labels, minlength=len(dataset.class_names))
    poorest = int(counts.argmin())
    name, images = dataset.class_names[poorest], int(counts[poorest])
    wanted = study.validation_per_class
    if not images:
        raise BadInput(f"class {name!r} has no training image: there is none to hold out for the search, add some")
    if wanted >= images:
        raise BadInput(
            f"validation_per_class: {wanted}, but class {name!r} has {images} training images; "
            f"hold out fewer, {max(1, int(SHARE * images))} for instance"
        )
    if wanted:
        return wanted, []
    held_out = min(MOST, round(SHARE * images))
    if held_out < FEWEST:
        raise BadInput(
            f"class {name!r} has {images} training images: too few to hold out some for the search unasked; "
            "set validation_per_class in the study, or add images of it"
        )
    return held_out, [
        f"the study holds no validation images out: {held_out} of every class are ({SHARE:.0%} of the poorest one's, "
        f"at most {MOST}), and no model trains on them"
    ]
