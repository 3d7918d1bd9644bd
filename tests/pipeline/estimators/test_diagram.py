"""What scikit-learn's diagram shows of a fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline import LinearRegression, LogisticRegression, MLPRegressor, SGDClassifier
from pipeline.estimators.base import GradientModel
from pipeline.models.model_files import load_model, save_model
from tests.data import breast_cancer, diabetes
from tests.markup import Page

FACTS = ("solver_", "status_", "n_rounds_", "history_", "parameters_sha256_")


def shown(model: GradientModel) -> Page:
    with config_context(display="diagram"):
        html = model._repr_html_()
        assert model._repr_mimebundle_().keys() == {"text/plain", "text/html"}
    return Page(html)


@pytest.mark.parametrize(
    "model",
    [
        LogisticRegression(C=0.5),
        SGDClassifier(random_state=0),
        LinearRegression(),
        MLPRegressor(hidden_layer_sizes=(3,), max_iter=9, random_state=0),
    ],
)
def test_a_fit_says_how_it_went(model: GradientModel) -> None:
    before, text = shown(model), repr(model)
    assert not {*FACTS} & before.facts.keys() and "Fitted attributes" not in before.text
    X, y = breast_cancer() if "Classifier" in text or "Logistic" in text else diabetes()
    if isinstance(model, MLPRegressor):
        with pytest.warns(ConvergenceWarning):
            model.fit(X, y)
    else:
        model.fit(X, y)
    page = shown(model)
    assert page.facts["solver_"] == f"{model.solver_.name} ({model.solver_.reason})"
    assert page.facts["status_"] == f"{model.status_.kind}: {model.status_.reason}"
    assert page.facts["n_rounds_"] == str(model.n_rounds_)
    assert page.facts["parameters_sha256_"] == model.parameters_sha256_
    first, last = model.history_[0], model.history_[-1]
    assert page.facts["history_"] == f"objective {first['objective']:.4g} to {last['objective']:.4g} in {last['seconds']:.3g} s"
    names = [row[0].strip() for row in page.rows]
    assert all(names.count(name) == 1 for name in FACTS) and "n_iter_" in names
    assert repr(model) == text


def test_in_a_pipeline_of_scikit_learn() -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(*breast_cancer())
    assert Page(model._repr_html_()).facts["parameters_sha256_"] == model[-1].parameters_sha256_


def test_a_model_from_a_file_says_what_it_knows(tmp_path: Path) -> None:
    model = LinearRegression().fit(*diabetes())
    save_model(model, tmp_path / "model.safetensors")
    facts = shown(load_model(tmp_path / "model.safetensors")).facts
    assert facts["parameters_sha256_"] == model.parameters_sha256_ and "solver_" not in facts


def test_a_model_set_by_hand_has_no_fit() -> None:
    model = LinearRegression()
    model.coef_, model.intercept_ = np.ones(3), 0.5
    page = shown(model)
    assert not {*FACTS} & page.facts.keys() and "Fitted attributes" in page.text


def test_text_of_the_user_is_escaped() -> None:
    X, y = breast_cancer()
    name = "<s>&'\"</s>"
    model = LogisticRegression().fit(pd.DataFrame(X[:, :1], columns=[name]), np.where(y == 1, "<i>", "<u>"))
    model.status_ = model.status_._replace(reason=name)
    page = shown(model)
    assert page.facts["status_"] == f"converged: {name}"
    assert not {"s", "i", "u"} & set(page.tags)
