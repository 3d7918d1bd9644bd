"""scikit-learn's callbacks (experimental in 1.9) on our rounds. Hooks run in the client only."""

from __future__ import annotations

from typing import Any

from sklearn.callback import CallbackContext

from pipeline.training.history import Row
from pipeline.training.observers import Observer


class RoundCallbacks(Observer):
    """Tells the callbacks of a running fit of every round; how many there will be is not known."""

    def __init__(self, estimator: Any, context: CallbackContext, X: Any, y: Any) -> None:
        self.estimator = estimator
        self.context = context
        context.call_on_fit_task_begin(estimator=estimator, X=X, y=y)

    def after(self, row: Row) -> bool:
        task = self.context.subcontext(task_name=f"round-{row['oracle']}")
        task.call_on_fit_task_begin(estimator=self.estimator)
        return bool(task.call_on_fit_task_end(estimator=self.estimator, metadata=dict(row)))

    def close(self) -> None:
        """Tell them that the estimator is fitted."""
        self.context.call_on_fit_task_end(estimator=self.estimator)
