from __future__ import annotations

import pytest

from tailkeep.analysis import groups
from tailkeep.analysis.cells import Cells, read_cells
from tailkeep.analysis.groups import make_groups
from tailkeep.errors import BadInput
from tailkeep.frame import build

CIFAR10 = {
    "exponential-10": [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500],
    "exponential-20": [5000, 3584, 2569, 1842, 1320, 946, 678, 486, 348, 250],
    "exponential-50": [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100],
    "exponential-100": [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50],
    "exponential-200": [5000, 2775, 1540, 854, 474, 263, 146, 81, 45, 25],
    "linear-100": [5000, 4450, 3900, 3350, 2800, 2250, 1700, 1150, 600, 50],
}
STEP = [5000] * 5 + [50] * 5
LONG = [int(500 * 100 ** (-c / 99)) for c in range(100)]  # CIFAR-100 at ratio 100: 500 down to 5


def cells_of(rows_of, **settings: list[int]) -> Cells:
    rows = []
    for setting, counts in settings.items():
        rows += rows_of([50] * len(counts), counts=counts, setting=setting)
    return read_cells(build(rows), "test")


def test_oltr_groups_at_their_edges() -> None:
    assert groups.oltr_groups([101, 100, 20, 19]) == ("many", "medium", "medium", "few")
    assert groups.oltr_groups([51, 50, 9], cuts=(10, 50)) == ("many", "medium", "few")


@pytest.mark.parametrize(("classes", "sizes"), [(10, (3, 4, 3)), (7, (2, 3, 2)), (100, (33, 34, 33)), (3, (1, 1, 1))])
def test_thirds(classes: int, sizes: tuple[int, int, int]) -> None:
    made = groups.third_groups(list(range(classes, 0, -1)))
    assert tuple(made.count(name) for name in groups.THIRDS) == sizes
    assert list(made) == sorted(made, key=groups.THIRDS.index)


def test_two_classes_have_no_middle() -> None:
    assert groups.third_groups([5, 9]) == ("rare", "frequent")


def test_thirds_follow_the_rank_not_the_class_order() -> None:
    assert groups.third_groups([1, 500, 20, 90, 3, 70]) == ("rare", "frequent", "middle", "frequent", "rare", "middle")


def test_rank_is_stable_among_equals() -> None:
    assert groups.frequency_rank([5, 9, 5, 9]).tolist() == [2, 0, 3, 1]


def test_step_groups_need_two_sizes() -> None:
    assert groups.step_groups([9, 2, 9]) == ("majority", "minority", "majority")
    with pytest.raises(ValueError, match="two sizes"):
        groups.step_groups([3, 2, 1])


@pytest.mark.parametrize("setting", CIFAR10)
def test_every_cifar10_preset_falls_back_to_thirds(rows_of, setting: str) -> None:
    made = make_groups(cells_of(rows_of, **{setting: CIFAR10[setting]}))
    assert made.names == groups.THIRDS
    assert made.members[("toy", setting, 0)] == ("frequent",) * 3 + ("middle",) * 4 + ("rare",) * 3
    assert setting in made.rule
    assert "3 frequent, 3 rare" in made.rule


def test_the_cut_points_hold_where_every_group_has_classes(rows_of) -> None:
    made = make_groups(cells_of(rows_of, long=LONG))
    assert made.names == groups.OLTR
    assert made.rule == "many: more than 100 training images; medium: 20 to 100; few: fewer than 20"
    members = made.members[("toy", "long", 0)]
    assert members.count("many") == sum(c > 100 for c in LONG)
    assert members.count("few") == sum(c < 20 for c in LONG)


def test_one_setting_with_an_empty_group_moves_the_whole_study(rows_of) -> None:
    mild = [500 - 4 * c for c in range(100)]
    made = make_groups(cells_of(rows_of, long=LONG, mild=mild))
    assert made.names == groups.THIRDS
    assert "mild" in made.rule
    assert "long" not in made.rule


def test_free_cut_points_can_bring_the_groups_back(rows_of) -> None:
    counts = CIFAR10["exponential-100"]
    made = make_groups(cells_of(rows_of, a=counts), cuts=(200, 1000))
    assert made.names == groups.OLTR
    assert made.members[("toy", "a", 0)] == ("many",) * 4 + ("medium",) * 3 + ("few",) * 3
    with pytest.raises(BadInput, match="cut points"):
        make_groups(cells_of(rows_of, a=counts), cuts=(100, 20))


def test_step_has_majority_and_minority_beside_thirds(rows_of) -> None:
    made = make_groups(cells_of(rows_of, step=STEP, exponential=CIFAR10["exponential-100"]))
    assert made.names == (*groups.THIRDS, *groups.STEP)
    assert "majority and minority for step imbalance" in made.rule
    positions = made.positions(("toy", "step", 0))
    assert sorted(positions) == ["few", "many"]
    assert positions["few"].tolist() == [5, 6, 7, 8, 9]
    assert sorted(made.positions(("toy", "exponential", 0))) == ["few", "many", "medium"]


def test_a_balanced_setting_has_no_groups_and_moves_no_rule(rows_of) -> None:
    made = make_groups(cells_of(rows_of, even=[500] * 100, long=LONG))
    assert made.names == groups.OLTR
    assert made.positions(("toy", "even", 0)) == {}
    assert not made.is_imbalanced("toy", "even")
    assert made.is_imbalanced("toy", "long")


def test_a_twin_takes_the_groups_of_the_imbalanced_cell(rows_of) -> None:
    rows = rows_of([50] * 3, counts=[5, 500, 50]) + rows_of([60] * 3, counts=[500] * 3, twin="full")
    made = make_groups(read_cells(build(rows), "test"))
    assert list(made.members) == [("toy", "exponential-100", 0)]
    assert made.members[("toy", "exponential-100", 0)] == ("few", "many", "medium")


def test_a_rotated_class_order_is_seen(rows_of) -> None:
    rows = rows_of([50] * 3, counts=[500, 50, 5]) + rows_of([50] * 3, counts=[5, 500, 50], seed=1)
    made = make_groups(read_cells(build(rows), "test"))
    assert made.rotates("toy", "exponential-100")
    assert made.members[("toy", "exponential-100", 1)] == ("few", "many", "medium")


def test_cells_of_one_place_must_agree(rows_of) -> None:
    rows = rows_of([50] * 3, counts=[500, 50, 5])
    rows += rows_of([50] * 3, counts=[500, 50, 6], method="pruned", role="technique")
    with pytest.raises(BadInput, match="different training counts"):
        make_groups(read_cells(build(rows), "test"))
