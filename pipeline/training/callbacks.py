"""scikit-learn's callbacks (experimental in 1.9) on our rounds. Hooks run in the client only."""

from __future__ import annotations

from typing import Any

from sklearn.callback import CallbackContext

from pipeline.training.history import Row


class RoundCallbacks:
    """Tells the callbacks of a running fit of every round; how many there will be is not known."""

    def __init__(self, estimator: Any, context: CallbackContext, X: Any, y: Any) -> None:
        self.estimator = estimator
        self.context = context
        context.call_on_fit_task_begin(estimator=estimator, X=X, y=y)

    def on_round(self, row: Row) -> bool:
        """After a round; True when a callback asks to stop."""
        task = self.context.subcontext(task_name=f"round-{row['power']}")
        task.call_on_fit_task_begin(estimator=self.estimator)
        return bool(task.call_on_fit_task_end(estimator=self.estimator, metadata=dict(row)))

    def end(self) -> None:
        self.context.call_on_fit_task_end(estimator=self.estimator)
