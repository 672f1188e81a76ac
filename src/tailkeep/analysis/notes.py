"""What a reader must know beside the figures: what is missing, what was left out, what everything rests on."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from tailkeep.analysis.cells import PRIMARY_REFERENCES, Arm, Cells
from tailkeep.analysis.groups import Groups
from tailkeep.analysis.verdict import Contrast
from tailkeep.analysis.words import plural


def make_notes(
    cells: Cells,
    groups: Groups,
    seed_table: pd.DataFrame,
    made: Sequence[Contrast],
    failures: pd.DataFrame,
    twins: Sequence[str],
) -> list[str]:
    """Return the notes of a study, in the order of reading."""
    notes = ["All intervals and tests are conditional on this test set: they say what other seeds would give on it."]
    if not cells.balanced_test:
        notes.append("The test set is not balanced: accuracy is the mean recall over the classes.")
    if len(failures):
        notes.append(f"{plural(len(failures), 'cell')} failed; figures come from the others.")
    for twin in twins:
        if not cells.seeds(twin=twin):
            notes.append(f"No {twin} twin of any setting is there: no gap or excess gap against it.")
    notes.extend(_setting_notes(cells, groups))
    notes.extend(_seed_notes(cells, seed_table, [twin for twin in twins if cells.seeds(twin=twin)]))
    notes.extend(_contrast_notes(cells, made))
    return notes


def _setting_notes(cells: Cells, groups: Groups) -> list[str]:
    notes = []
    for dataset, setting in dict.fromkeys((arm.dataset, arm.setting) for arm in cells.arms):
        if groups.rotates(dataset, setting):
            text = "the class order differs between seeds, so averages over classes go by frequency rank"
            notes.append(f"{dataset}, {setting}: {text}.")
        if not groups.is_imbalanced(dataset, setting):
            notes.append(f"{dataset}, {setting}: every class has as many images, so it is left out of the verdicts.")
    return notes


def _seed_notes(cells: Cells, seed_table: pd.DataFrame, twins: Sequence[str]) -> list[str]:
    """Say for which arms D or E comes from fewer seeds than the study has."""
    notes = []
    for arm in cells.arms:
        references = [name for name in cells.references(arm) if name in PRIMARY_REFERENCES]
        if arm.role == "dense" or (arm.role == "control" and not references):
            continue
        mine = seed_table[(seed_table[list(Arm._fields)] == list(arm)).all(axis=1)]
        wanted = set(cells.seeds(None))
        for what, column, twin in [(f"excess gap against the {t} twin", "excess", t) for t in twins] or [
            ("compression drop", "drop", "none")
        ]:
            rows = mine[(mine["twin"] == twin) & mine["reference"].isin(references) & mine[column].notna()]
            have = {int(seed) for seed in rows["seed"]}
            if have != wanted:
                missing = ", ".join(str(seed) for seed in sorted(wanted - have))
                notes.append(
                    f"{arm.method} ({arm.model}, {arm.setting}): {what} from {len(have)} of "
                    f"{plural(len(wanted), 'seed')} (missing: seed{'s' * (len(wanted - have) > 1)} {missing})."
                )
    return notes


def _contrast_notes(cells: Cells, made: Sequence[Contrast]) -> list[str]:
    notes = []
    for contrast in made:
        subject = f"{contrast.method} ({contrast.model})"
        if contrast.left_out:
            notes.append(f"{subject}: the verdict leaves out {', '.join(contrast.left_out)}, where E is not available.")
        start = {c.seed for c in cells.own if c.arm.method == contrast.method and c.arm.model == contrast.model}
        lost = sorted(start - set(contrast.seeds))
        if contrast.seeds and lost and len(contrast.settings) > 1:
            which = ", ".join(str(seed) for seed in lost)
            notes.append(f"{subject}: the verdict leaves out seed {which}, for want of a setting.")
    return notes
