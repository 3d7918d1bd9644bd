"""The library's estimators by name: what a job or a model file may ask for."""

from __future__ import annotations

from typing import Final

from pipeline.estimators.base import GradientModel
from pipeline.estimators.linear import LinearRegression, Ridge
from pipeline.estimators.logistic import LogisticRegression
from pipeline.estimators.neural_network import MLPClassifier, MLPRegressor
from pipeline.estimators.sgd import SGDClassifier, SGDRegressor
from pipeline.estimators.torch_networks import TorchClassifier, TorchRegressor

ESTIMATORS: Final[dict[str, type[GradientModel]]] = {
    estimator.__name__: estimator
    for estimator in (
        LinearRegression,
        LogisticRegression,
        MLPClassifier,
        MLPRegressor,
        Ridge,
        SGDClassifier,
        SGDRegressor,
        TorchClassifier,
        TorchRegressor,
    )
}
