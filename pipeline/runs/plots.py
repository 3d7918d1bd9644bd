"""The plot of a run's rounds."""

from __future__ import annotations

import io
import math

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.estimators.base import GradientModel
from pipeline.estimators.mini_batches import MiniBatchModel
from pipeline.runs.metrics import Metrics
from pipeline.training.history import Row


def loss_plot(model: GradientModel, metrics: Metrics) -> bytes:
    """Objective and largest |gradient| at the last accepted point after each round, or what there is of each epoch, as a PNG."""
    figure = Figure(figsize=(8, 3.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    if isinstance(model, MiniBatchModel) and model._by_epochs:
        plot_epochs(model, left, right)
    else:
        plot_rounds(model, left, right)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    figure.suptitle(f"{metrics['name']}: {metrics['estimator']}, {metrics['solver']}, {metrics['status']} after {metrics['rounds']} rounds")
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def plot_rounds(model: GradientModel, left: Axes, right: Axes) -> None:
    """Of a fit in full passes."""
    history: list[Row] = model.history_
    rounds = [row["round"] for row in history]
    left.plot(rounds, [row["objective"] for row in history], marker=".")
    left.set(xlabel="round", ylabel="objective (mean loss + penalty)")
    norms = [row["gradient_norm"] if row["gradient_norm"] > 0 else math.nan for row in history]
    right.plot(rounds, norms, marker=".")
    right.axhline(model.tol, color="grey", linestyle=":", label=f"tol {model.tol:g}")
    right.set(xlabel="round", ylabel="largest |gradient|", yscale="log")
    right.legend()


def plot_epochs(model: MiniBatchModel, left: Axes, right: Axes) -> None:
    """Of a fit by mini-batches, whose rounds are many and say little each."""
    left.plot(range(1, len(model.loss_curve_) + 1), model.loss_curve_, marker=".")
    left.set(xlabel="epoch", ylabel="mean loss + penalty of its batches")
    if model.validation_scores_ is not None:
        right.plot(range(1, len(model.validation_scores_) + 1), model.validation_scores_, marker=".")
        right.set(xlabel="epoch", ylabel="score of the rows held out")
        return
    batches = [row for row in model.history_ if model._is_batch(row)]
    n_rounds = batches[0]["row_step"] if batches else 1
    last = batches[n_rounds - 1 :: n_rounds]
    right.plot(range(1, len(last) + 1), [row["gradient_norm"] if row["gradient_norm"] > 0 else math.nan for row in last], marker=".")
    right.set(xlabel="epoch", ylabel="largest |gradient| of its last batch", yscale="log")
