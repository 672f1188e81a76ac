"""The study that the scaling simulation plans: a grid like that of studies/mitigation.yaml, on digits, of any size.

Digits are real data that every machine has, so that the spec is checked, resolved and planned by the code that every
study goes through. How long a step takes is not digits' but ``recorded_times.json``'s.
"""

from __future__ import annotations

import math
from typing import Any

from tailkeep.study.spec import StudySpec

RECIPE: dict[str, Any] = {"batch_size": 128, "precision": "float32", "weight_decay": 5e-4}
SHORT = {**RECIPE, "epochs": 5, "lr": 0.05}
LSQ: dict[str, Any] = {"kind": "qat", "weight_bits": 4, "weights": "lsq", "activations": "lsq"}
METHODS: list[dict[str, Any]] = [
    {"name": "adjusted", "method": {"kind": "logit_adjustment_post_hoc"}},
    {"name": "pruned", "method": {"kind": "filter_pruning", "ratio": 0.4}, "recipe": SHORT},
    {"name": "pruned + W8", "parent": "pruned", "method": {"kind": "ptq"}},
    {"name": "taught", "parent": "pruned", "teacher": "dense", "method": {"kind": "distillation"}, "recipe": SHORT},
    {"name": "taught + W8", "parent": "taught", "method": {"kind": "ptq"}},
    {"name": "W4A8", "method": LSQ, "recipe": {**RECIPE, "epochs": 3, "lr": 0.02}},
    {
        "name": "W4A8 during",
        "method": LSQ,
        "recipe": {**RECIPE, "epochs": 3, "lr": 0.02},
        "loss": {"kind": "balanced_softmax"},
    },
    {"name": "W4A8 + adjusted", "parent": "W4A8", "method": {"kind": "logit_adjustment_post_hoc"}},
    {"name": "W8", "method": {"kind": "ptq"}},
]
RATIOS = (2, 5, 10, 20, 50)
STEPS_A_CELL = 3
"""Each cell is a model, its prediction of the test split, and that of the held-out images."""
CELLS_A_SEED = len(RATIOS) * 2 * (1 + len(METHODS))


def study_of(cells: int) -> StudySpec:
    """Return a study of at least ``cells`` cells, in whole seeds of ``CELLS_A_SEED`` each."""
    return StudySpec.model_validate(
        {
            "name": "scaling",
            "data": {"source": {"kind": "digits"}},
            "imbalance": [{"kind": "exponential", "ratio": ratio, "n_max": 100} for ratio in RATIOS],
            "balanced": "none",
            "validation_per_class": 20,
            "evaluate": "both",
            "models": [
                {"model": {"kind": "digits_net"}, "name": "CE"},
                {"model": {"kind": "digits_net"}, "name": "balanced softmax", "loss": {"kind": "balanced_softmax"}},
            ],
            "recipe": {**RECIPE, "epochs": 20, "lr": 0.2},
            "methods": METHODS,
            "controls": {"continued": False, "student_alone": False},
            "seeds": list(range(math.ceil(cells / CELLS_A_SEED))),
        }
    )
