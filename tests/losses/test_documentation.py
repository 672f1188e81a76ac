"""The page names every loss, sampler, mixture and repair, with each of its settings."""

import re
from pathlib import Path
from typing import get_args

import pytest

from tailkeep.compression.repair.classifier_retraining import ClassifierRetraining
from tailkeep.compression.repair.logit_adjustment import PostHocLogitAdjustment
from tailkeep.compression.repair.tau_normalisation import TauNormalisation
from tailkeep.compression.repair.weight_scaling import WeightScaling
from tailkeep.study import catalog
from tailkeep.training.mixing import AnyMix

PAGE = (Path(__file__).parents[2] / "docs" / "losses.md").read_text(encoding="utf-8")
REPAIRS = [ClassifierRetraining, PostHocLogitAdjustment, TauNormalisation, WeightScaling]
SHARED = ("drw", "beta")
KINDS = [*catalog.LOSSES, *catalog.SAMPLERS, *get_args(get_args(AnyMix)[0]), *REPAIRS]


@pytest.mark.parametrize("cls", KINDS, ids=lambda cls: cls.__name__)
def test_a_kind_has_its_row_with_its_settings_and_their_defaults(cls):
    kind = cls.model_fields["kind"].default
    rows = re.findall(rf"^\| `{kind}` \|.*$", PAGE, re.M)
    assert len(rows) == 1, f"docs/losses.md needs one row of its tables for {kind!r}, with its settings"
    row = rows[0]
    for name, field in cls.model_fields.items():
        if name == "kind":
            continue
        if name in SHARED and f"`{name}`" not in row:  # said once, below the table
            assert PAGE.count(f"`{name}`") > 1
            continue
        shown = str(field.default).lower() if isinstance(field.default, (bool, str)) else f"{field.default:g}"
        assert re.search(rf"`{name}`( s)? {shown}|`{shown}`", row), f"{name} {shown}"
