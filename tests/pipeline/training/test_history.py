"""The rounds of a fit: a list of rows in every respect, with a frame, a plot and reprs that stay short."""

from __future__ import annotations

import copy
import json
import math
import pickle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from pipeline import Dataset, LogisticRegression, minimise
from pipeline.training.history import Rounds, Row, json_line
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss
from tasks.strategies.lbfgs import LBFGS
from tests.data import breast_cancer
from tests.markup import Page
from tests.rounds import AfterRounds

NAMES = ["oracle", "row_step", "iteration", "objective", "gradient_norm", "seconds", "subtree", "staleness", "bytes_sent", "bytes_received"]
RESIDUALS = ["primal_residual", "dual_residual"]


def rows(n: int) -> list[Row]:
    """Of n rounds that halve what they can."""
    return [
        Row(
            round=i,
            oracle="loss_and_gradient",
            row_step=1.0,
            iteration=i - 1,
            objective=1.0 + 0.5**i,
            gradient_norm=0.5**i,
            seconds=0.25 * i,
            subtree=-1,
            staleness=0,
        )
        for i in range(1, n + 1)
    ]


# -- a list --------------------------------------------------------------------------------------------------------------------------


def test_it_is_a_list_of_rows() -> None:
    plain, rounds = rows(12), Rounds(rows(12))
    assert isinstance(rounds, list) and rounds == plain and plain == rounds and rounds != plain[1:]
    assert type(rounds[2:5]) is list and rounds[2:5] == plain[2:5] and rounds[-1]["round"] == 12
    assert rounds + plain == plain + plain and list(reversed(rounds)) == plain[::-1]
    assert json.dumps(rounds) == json.dumps(plain) and "".join(map(json_line, rounds)) == "".join(map(json_line, plain))
    rounds += rows(1)
    del rounds[:11]
    assert type(rounds) is Rounds and [row["round"] for row in rounds] == [12, 1]


def test_copies_and_pickles_are_the_same_rounds() -> None:
    rounds = Rounds(rows(3))
    for found in (copy.copy(rounds), copy.deepcopy(rounds), pickle.loads(pickle.dumps(rounds))):
        assert type(found) is Rounds and found == rounds and found is not rounds


def test_estimators_have_it_through_pickles_clones_and_checkpoints(tmp_path: Path) -> None:
    X, y = breast_cancer()
    whole = LogisticRegression(solver="lbfgs").fit(X, y)
    assert type(whole.history_) is Rounds and len(whole.history_) == whole.n_rounds_
    back = pickle.loads(pickle.dumps(whole))
    assert type(back.history_) is Rounds and back.history_ == whole.history_
    assert "history_" not in vars(clone(whole))
    cut = LogisticRegression(solver="lbfgs", checkpoint=tmp_path).set_callbacks(AfterRounds((3,), lambda: True))
    with pytest.warns(ConvergenceWarning, match="after 3 rounds"):
        cut.fit(X, y)
    resumed = LogisticRegression(solver="lbfgs", checkpoint=tmp_path).fit(X, y)
    assert resumed.resumed_from_ == 3 and type(resumed.history_) is Rounds
    pd.testing.assert_frame_equal(resumed.history_.to_frame().drop(columns="seconds"), whole.history_.to_frame().drop(columns="seconds"))


def test_minimise_has_it_too() -> None:
    X, y = breast_cancer()
    objective = LinearObjective(LogisticLoss(), X.shape[1], 1, True, np.arange(2))
    found = minimise(objective, Dataset.from_arrays(X, y), LBFGS(tol=1e-3), np.zeros(X.shape[1] + 1))
    assert type(found.history) is Rounds and found.history[0]["objective"] == pytest.approx(math.log(2))
    assert "loss_and_gradient" not in repr(found)


# -- a frame, and reprs --------------------------------------------------------------------------------------------------------------


def test_the_frame_has_a_row_a_round() -> None:
    frame = Rounds(rows(7)).to_frame()
    assert frame.index.name == "round" and frame.index.tolist() == [1, 2, 3, 4, 5, 6, 7] and frame.columns.tolist() == NAMES
    np.testing.assert_array_equal(frame["gradient_norm"], 0.5 ** np.arange(1, 8))
    none = Rounds().to_frame()
    assert len(none) == 0 and none.columns.tolist() == NAMES


def test_fits_that_are_to_agree_say_how_far_they_are(tmp_path: Path) -> None:
    """In a frame, in JSON and through a checkpoint; others do not speak of it."""
    data = Dataset.from_arrays(*breast_cancer(), n_partitions=6)
    whole = LogisticRegression(solver="admm", tol=1e-3).fit(data).history_
    assert whole.to_frame().columns.tolist() == [*NAMES, *RESIDUALS]
    assert np.all(whole.to_frame()[RESIDUALS] > 0)
    assert whole[-1]["primal_residual"] < 0.1 * whole[0]["primal_residual"]
    assert json.loads(json_line(whole[0]))["dual_residual"] == whole[0]["dual_residual"]
    assert all(name in repr(whole) and name in whole._repr_html_() for name in RESIDUALS)
    cut = LogisticRegression(solver="admm", tol=1e-3, checkpoint=tmp_path).set_callbacks(AfterRounds((3,), lambda: True))
    with pytest.warns(ConvergenceWarning, match="after 3 rounds"):
        cut.fit(data)
    resumed = LogisticRegression(solver="admm", tol=1e-3, checkpoint=tmp_path).fit(data)
    assert resumed.resumed_from_ == 3
    for row, other in zip(resumed.history_, whole, strict=True):
        assert {**row, "seconds": 0.0} == {**other, "seconds": 0.0}
    plain = LogisticRegression(solver="newton").fit(data).history_
    assert not any(name in row for row in plain for name in RESIDUALS)
    assert Rounds([*plain, *whole]).to_frame()[RESIDUALS].isna().sum().tolist() == [len(plain)] * 2


@pytest.mark.parametrize("n", [0, 1, 10, 11, 100_000])
def test_reprs_are_short(n: int) -> None:
    rounds = Rounds(rows(n))
    text, page = repr(rounds), Page(rounds._repr_html_())
    shown = [1, 2, 3, 4, 5, n - 4, n - 3, n - 2, n - 1, n] if n > 10 else list(range(1, n + 1))
    title = f"{n} round{'s' * (n != 1)}{', the first 5 and the last 5' if n > 10 else ''}"
    assert text.splitlines()[0] == title and title in page.text
    assert [int(row[0]) for row in page.rows if row[0].isdigit()] == shown
    assert [int(line.split()[0]) for line in text.splitlines()[1:] if line[:1].isdigit()] == shown
    assert len(text.splitlines()) <= 14


# -- a plot --------------------------------------------------------------------------------------------------------------------------


def test_the_plot_draws_what_the_rows_say() -> None:
    left, right = Rounds(rows(7)).plot(tol=1e-2)
    try:
        (objective,), (gradients, tol) = left.lines, right.lines
        for line, values in ((objective, 1 + 0.5 ** np.arange(1, 8)), (gradients, 0.5 ** np.arange(1, 8))):
            np.testing.assert_array_equal(np.asarray(line.get_xdata()), np.arange(1, 8))
            np.testing.assert_array_equal(np.asarray(line.get_ydata()), values)
        assert right.get_yscale() == "log" and list(np.asarray(tol.get_ydata())) == [1e-2, 1e-2]
        assert left.get_xlabel() == right.get_xlabel() == "round"
    finally:
        plt.close(left.figure)


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("gradient_norm", [0.0, math.nan, math.inf])
def test_a_plot_of_hardly_anything(n: int, gradient_norm: float) -> None:
    rounds = Rounds({**row, "gradient_norm": gradient_norm} for row in rows(n))
    figure = Figure(layout="constrained")
    axes = figure.subplots(1, 2)
    assert rounds.plot(axes, tol=0.0) == tuple(axes)
    figure.canvas.draw()


def test_axes_must_be_two() -> None:
    figure = Figure()
    for axes in (figure.subplots(), figure.subplots(1, 3), 7):
        with pytest.raises(TypeError, match="axes must be two"):
            Rounds(rows(2)).plot(axes)
