"""What scikit-learn's diagram of an estimator shows of a fit."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from typing import Any, Final

from sklearn.utils._repr_html.fitted_attributes import AttrsDict

from pipeline.training.history import Rounds

# in the classes of scikit-learn's style sheet
TABLE: Final = (
    '<div class="estimator-table"><details open><summary>Fit</summary><table class="parameters-table"><tbody>{}</tbody></table>'
    "</details></div>"
)
LINE: Final = '<tr class="default"><td class="param">{}</td><td class="value">{}</td></tr>'


class FitAttributes(AttrsDict):
    """Fitted attributes as scikit-learn keeps them for its diagram, which tells some of them in whole words, in a table of their own."""

    def __init__(self, attributes: AttrsDict) -> None:
        super().__init__(fitted_attrs=attributes.data, estimator_class=attributes.estimator_class, doc_link=attributes.doc_link)

    def _html_repr(self) -> str:
        facts = fit_facts({name: each["value"] for name, each in self.items()})
        others = {name: each for name, each in self.items() if name not in facts}
        rest = AttrsDict(fitted_attrs=others, estimator_class=self.estimator_class, doc_link=self.doc_link)._repr_html_inner()
        lines = "".join(LINE.format(name, html.escape(fact)) for name, fact in facts.items())
        return f"{TABLE.format(lines) if lines else ''}{rest}"


def fit_facts(attributes: Mapping[str, Any]) -> dict[str, str]:
    """How a fit went, in words, by the name of the attribute; of models that were read from a file, or set by hand, what they have."""
    words: dict[str, Callable[[Any], str]] = {
        "solver_": str,
        "status_": ": ".join,
        "n_rounds_": str,
        "history_": told,
        "parameters_sha256_": str,
    }
    return {name: tell(attributes[name]) for name, tell in words.items() if name in attributes}


def told(history: Rounds) -> str:
    """A fit's rounds in a line."""
    if not history:
        return "no rounds"
    first, last = history[0], history[-1]
    return f"objective {first['objective']:.4g} to {last['objective']:.4g} in {last['seconds']:.3g} s"
