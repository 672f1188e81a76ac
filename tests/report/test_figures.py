from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tailkeep.report import charts, forest, heatmap
from tailkeep.report.select import View


def test_the_forest_draws_every_interval_and_every_seed(analysis) -> None:
    frame, cut = forest.forest_frame(View(analysis))
    counts = frame["kind"].value_counts()
    assert not cut
    assert counts["mean"] == 6 * 2
    assert counts["average"] == 4
    assert counts["seed"] <= 6 * 2 * 3
    mean = frame[(frame["kind"] == "mean") & (frame["method"] == "QAT W8A4")].iloc[0]
    row = analysis.gaps[analysis.gaps["method"] == "QAT W8A4"].iloc[0]
    assert (mean["value"], mean["low"], mean["high"]) == (row["excess"], row["excess_low"], row["excess_high"])


def test_an_interval_without_end_does_not_hide_the_rest(analysis) -> None:
    gaps = analysis.gaps.copy()
    gaps["excess_high"] = 900.0
    frame, cut = forest.forest_frame(View(replace(analysis, gaps=gaps)))
    assert cut
    assert frame["high"].max() < 30


def test_no_twin_no_forest(make_analysis) -> None:
    assert forest.excess_figure(View(make_analysis(twin="none"))) is None


@pytest.mark.parametrize(
    ("value", "bin_"), [(0.0, 5), (-0.4, 5), (-1.0, 4), (1.0, 6), (-99.0, 0), (99.0, 10), (0.49, 5)]
)
def test_loss_is_red_and_gain_is_blue(value: float, bin_: int) -> None:
    assert heatmap.change_bin(value, 1.0) == bin_


def test_the_colour_step_follows_the_data() -> None:
    assert heatmap.change_step(pd.Series([0.1, -0.2])) == 0.5
    assert heatmap.change_step(pd.Series([20.0, -20.0])) == 5.0
    assert heatmap.change_step(pd.Series([], dtype=float)) == 0.5
    assert heatmap.change_step(pd.Series([np.nan, 500.0])) == 20.0


def test_classes_stand_by_frequency(analysis) -> None:
    view = View(analysis)
    rows = analysis.recall[(analysis.recall["setting"] == "exponential-100")].sample(frac=1.0, random_state=1)
    cells = heatmap.cells(view, view.ordered(rows, "rank"), "recall", 10.0)
    dense = cells[cells["method"] == "dense"]
    assert dense["name"].tolist() == list(analysis.recall["class_name"].unique())
    assert dense["images"].iloc[0] == "5,000"


def test_many_classes_share_cells(make_analysis) -> None:
    view = View(make_analysis(classes=[f"c{i}" for i in range(1000)], settings=("exponential-100",)))
    cells = heatmap.cells(view, view.analysis.recall, "recall", 10.0)
    assert cells["place"].nunique() <= heatmap.MOST_CLASSES
    assert cells["name"].iloc[0] == "ranks 1 to 9"


def test_a_figure_of_each_model(make_analysis) -> None:
    view = View(make_analysis(models=("resnet20", "../x <b>")))
    assert [figure.name for figure in heatmap.heat_figures(view, "recall")] == ["recall-resnet20", "recall-x-b"]


def test_groups_carry_the_studys_names(analysis) -> None:
    two = View(replace(analysis, group_names=("majority", "minority")))
    assert charts.group_slots(two) == [("many", "majority"), ("few", "minority")]
    five = View(replace(analysis, group_names=("frequent", "middle", "rare", "majority", "minority")))
    assert [name for _, name in charts.group_slots(five)] == ["frequent / majority", "middle", "rare / minority"]


def test_ticks_of_sizes_do_not_overlap() -> None:
    assert charts._spread([100.0, 110.0, 150.0, 400.0], 1.35) == [100.0, 150.0, 400.0]
