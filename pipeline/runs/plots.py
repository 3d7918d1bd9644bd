"""The plot of a run's rounds."""

from __future__ import annotations

import io
from collections.abc import Sized

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.estimators.base import GradientModel
from pipeline.estimators.mini_batches import MiniBatchModel
from pipeline.runs.metrics import Metrics
from pipeline.training.history import Rounds, draw, draw_gradients


def loss_plot(model: GradientModel, metrics: Metrics) -> bytes:
    """Objective and largest |gradient| at the last accepted point after each round, or what there is of each epoch, as a PNG."""
    figure = Figure(figsize=(8, 3.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    if isinstance(model, MiniBatchModel) and model._by_epochs:
        plot_epochs(model, left, right)
    else:
        history: Rounds = model.history_
        history.plot((left, right), tol=model.tol)
    figure.suptitle(f"{metrics['name']}: {metrics['estimator']}, {metrics['solver']}, {metrics['status']} after {metrics['rounds']} rounds")
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def plot_epochs(model: MiniBatchModel, left: Axes, right: Axes) -> None:
    """Plot a fit by mini-batches by epochs: its rounds are many and say little each."""
    draw(left, by_number(model.loss_curve_), model.loss_curve_, xlabel="epoch", ylabel="mean loss + penalty of its batches")
    scores = model.validation_scores_
    if scores is not None:
        draw(right, by_number(scores), scores, xlabel="epoch", ylabel="score of the rows held out")
        return
    batches = [row for row in model.history_ if model._is_batch(row)]
    n_rounds = max(1, round(batches[0]["row_step"])) if batches else 1
    last = batches[n_rounds - 1 :: n_rounds]
    draw_gradients(right, by_number(last), last, xlabel="epoch", ylabel="largest |gradient| of its last batch")


def by_number(epochs: Sized) -> range:
    """The number of each epoch."""
    return range(1, len(epochs) + 1)
