"""Parameters of estimators: what a declaration makes is what scikit-learn, type checkers and users have always seen."""

from __future__ import annotations

import inspect
import pickle
import pydoc
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import KW_ONLY, is_dataclass
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, ClassVar

import cloudpickle
import numpy as np
import pytest
from dask.base import tokenize
from sklearn import linear_model, neural_network
from sklearn.base import BaseEstimator, clone
from sklearn.utils._param_validation import InvalidParameterError, Options, make_constraint

import pipeline
from pipeline import LinearRegression, LogisticRegression, MLPRegressor, Ridge, SGDClassifier
from pipeline.estimators.parameters import Before, Flag, NotNegative, Only, with_parameters
from pipeline.estimators.registry import ESTIMATORS

TABLE = Path(__file__).with_name("parameters.txt")
REPOSITORY = Path(pipeline.__file__).parents[1]
each_estimator = pytest.mark.parametrize("name", ESTIMATORS)


def lines(name: str) -> Iterator[str]:
    """The parameters of an estimator in the order of its signature, a star before keywords: default | type | what scikit-learn checks."""
    for parameter in list(inspect.signature(ESTIMATORS[name].__init__).parameters.values())[1:]:
        star = "*" if parameter.kind is parameter.KEYWORD_ONLY else ""
        annotation = inspect.formatannotation(parameter.annotation).replace("typing.", "")
        yield f"{star}{parameter.name} = {parameter.default!r} | {annotation} | {checked(ESTIMATORS[name], parameter.name)}"


def checked(estimator: Any, parameter: str) -> str:
    constraints = estimator._parameter_constraints[parameter]
    return constraints if isinstance(constraints, str) else " or ".join(map(words, constraints))


def words(constraint: Any) -> str:
    if isinstance(constraint, Options):  # a set, in any order
        return f"{constraint.type.__name__} of {', '.join(map(str, sorted(constraint.options)))}"
    return str(make_constraint(constraint))


@each_estimator
def test_parameters_are_those_of_the_table(name: str) -> None:
    (expected,) = re.findall(rf"^\[{name}\]\n(.*?)(?=^\[|\Z)", TABLE.read_text(), re.DOTALL | re.MULTILINE)
    assert list(lines(name)) == expected.splitlines()
    assert ESTIMATORS[name]._parameter_constraints.keys() == ESTIMATORS[name]().get_params().keys()


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if not name.startswith("Torch")])  # those are like skorch's
def test_parameters_of_scikit_learn_stand_in_its_order(name: str) -> None:
    theirs = dict(inspect.signature(vars(linear_model).get(name) or vars(neural_network)[name]).parameters)
    ours = dict(inspect.signature(ESTIMATORS[name]).parameters)
    assert [each for each in ours if each in theirs] == [each for each in theirs if each in ours]
    assert {each: ours[each].kind for each in ours if each in theirs} == {each: theirs[each].kind for each in theirs if each in ours}


@each_estimator
def test_what_is_given_is_kept_as_it_is(name: str) -> None:
    estimator = ESTIMATORS[name]
    given = {parameter: object() for parameter in estimator().get_params()}
    model = estimator(**given)
    assert vars(model) == given and model.get_params(deep=False) == given
    assert not {*given} & {*dir(estimator)}  # nothing of it is the class's
    assert not is_dataclass(model)


@each_estimator
def test_copies(name: str) -> None:
    default = ESTIMATORS[name]()
    changed = clone(default).set_params(tol=0.125)
    for copy in (clone(changed), pickle.loads(pickle.dumps(changed)), cloudpickle.loads(cloudpickle.dumps(changed))):
        assert type(copy) is type(default)
        assert copy.get_params() == {**default.get_params(), "tol": 0.125}
    assert repr(changed) == f"{name}(tol=0.125)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGDClassifier(alph=1.0), r"SGDClassifier.__init__\(\) got an unexpected keyword argument 'alph'"),
        (lambda: SGDClassifier("hinge", "l2"), r"SGDClassifier.__init__\(\) takes from 1 to 2 positional arguments but 3 were given"),
        (lambda: LinearRegression(True), r"LinearRegression.__init__\(\) takes 1 positional argument but 2 were given"),
        (lambda: Ridge(1.0, alpha=1.0), r"Ridge.__init__\(\) got multiple values for argument 'alpha'"),
    ],
)
def test_wrong_calls_are_pythons_errors(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (SGDClassifier(alpha=-1.0), r"The 'alpha' parameter of SGDClassifier must be a float in the range \[0.0, inf\). Got -1.0 instead."),
        (SGDClassifier(n_jobs="x"), "The 'n_jobs' parameter of SGDClassifier must be None or an instance of 'int'. Got 'x' instead."),
        (SGDClassifier(n_jobs=2), r"SGDClassifier\(n_jobs=2\) is not available: leave it None; a fit in this process uses the threads"),
        (SGDClassifier("huber"), r"SGDClassifier\(loss='huber'\) is not available: losses for numbers are not for classes here"),
        (Ridge(positive=True), r"Ridge\(positive=True\) is not available: .* use sklearn.linear_model.Ridge$"),
        (LogisticRegression(l1_ratio=0.5), "L1 penalties are not available yet; use l1_ratio=0"),
        (LogisticRegression(max_iter=0), r"must be an int in the range \[1, inf\). Got 0 instead."),
        (MLPRegressor("poisson"), r"MLPRegressor\(loss='poisson'\) is not available: there is no other loss here"),
        (MLPRegressor(n_iter_no_change=0.5), r"must be an int in the range \[1, inf\) or a float among \{inf\}. Got 0.5 instead."),
    ],
)
def test_wrong_values_are_refused(model: Any, message: str) -> None:
    with pytest.raises((InvalidParameterError, ValueError), match=message):
        model.fit(np.eye(4), np.array([0, 1, 0, 1]))


class Balanced(SGDClassifier):
    """A user's, with a constructor of its own."""

    def __init__(self, scale: float = 1.0, alpha: float = 0.5) -> None:
        super().__init__("log_loss", alpha=alpha, class_weight="balanced")
        self.scale = scale


class Plain(Ridge):
    """A user's, without one."""


def test_subclasses_of_users() -> None:
    model = clone(Balanced(scale=2.0)).set_params(alpha=0.25)
    assert model.get_params() == {"scale": 2.0, "alpha": 0.25}
    assert (model.loss, model.class_weight, model.power_t) == ("log_loss", "balanced", 0.5)
    assert Plain(2.0).get_params() == Ridge(2.0).get_params()
    with pytest.raises(InvalidParameterError, match="The 'alpha' parameter of Balanced"):
        Balanced(alpha=-1.0).fit(np.eye(4), [0, 1, 0, 1])


def test_help_shows_the_signature() -> None:
    text = pydoc.plain(pydoc.render_doc(SGDClassifier))
    assert "class SGDClassifier" in text
    assert "loss: str = 'hinge', *, penalty: str | None = 'l2', alpha: float = 0.0001" in " ".join(text.split())
    assert "Minimise" in (inspect.getdoc(SGDClassifier) or "")


def test_what_a_model_learned_is_part_of_it_for_dask() -> None:
    """A dataclass is its fields to Dask, and fitted models would all be one."""
    model = Ridge()
    before = tokenize(model)
    assert tokenize(model.fit(np.eye(4), np.arange(4.0))) != before


@pytest.mark.slow
def test_type_checkers_know_the_parameters(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from pipeline import LinearRegression, MLPRegressor, Ridge, SGDClassifier\n"
        "from sklearn.base import clone\n"
        "def half(model: SGDClassifier) -> float:\n"
        "    return model.alpha / 2\n"
        'half(SGDClassifier("log_loss", alpha=0.1, tol=None))\n'
        'MLPRegressor("squared_error", (10,), "tanh", max_iter=3)\n'
        "Ridge(2.0, tol=1e-3)\n"
        'SGDClassifier(alpha="x")\n'
        "SGDClassifier(alph=0.1)\n"
        "LinearRegression(True)\n"
        "class Mine(Ridge):\n"
        "    def __init__(self, scale: float = 1.0) -> None:\n"
        "        super().__init__(scale, copy_X=3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(tmp_path / "mine.py")], cwd=REPOSITORY, capture_output=True, text=True, timeout=280
    )
    found = re.findall(r"mine\.py:(\d+): error: (.*?)  \[(.*)\]", done.stdout)
    assert [(int(line), code) for line, _, code in found] == [(8, "arg-type"), (9, "call-arg"), (10, "call-arg"), (13, "arg-type")], done
    assert 'Argument "alpha" to "SGDClassifier" has incompatible type "str"; expected "float"' in done.stdout


# -- declarations ----------------------------------------------------------------------------------------------------------------------


@with_parameters
class First(BaseEstimator):
    shared: ClassVar[int] = 7
    a: NotNegative = 1.0
    _: KW_ONLY
    b: Flag = True
    c: Any = None


@with_parameters
class Second(First):
    d: Annotated[float, Real, Only((0.0,), "use e")] = 0.0
    _: KW_ONLY
    a: NotNegative | None = 2.0
    e: Annotated[Flag, Before("c")] = False


def test_bases_come_first_but_for_what_names_its_place() -> None:
    assert str(inspect.signature(First)) == "(a: float = 1.0, *, b: bool = True, c: Any = None) -> None"
    assert list(inspect.signature(Second).parameters) == ["d", "a", "b", "e", "c"]
    assert Second(0.5).get_params() == {"a": 2.0, "b": True, "c": None, "d": 0.5, "e": False}
    assert First().get_params() == {"a": 1.0, "b": True, "c": None} and First.shared == 7
    assert checked(Second, "a") == "a float in the range [0.0, inf) or None" and checked(Second, "c") == "no_validation"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("a: NotNegative", "Wrong.a is a parameter without a default; give it one, a: ... = None for instance"),
        ("a: float = 1.0", "Wrong.a has no constraints; annotate it, a: NotNegative for instance, or with Any"),
    ],
)
def test_declarations_that_lack_something(fields: str, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        exec(f"@with_parameters\nclass Wrong:\n    {fields}", {**globals(), "__name__": __name__})
