"""The digest differs where a function that a fit takes gives other bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.machine.fingerprint import numeric_digest


def test_it_is_the_same_every_time() -> None:
    assert numeric_digest() == numeric_digest()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["exp", "tanh", "log", "log1p"])
def test_one_bit_of_numpys_functions_shows(name: str, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, function = numeric_digest(), getattr(np, name)

    def other(values: Any) -> Any:
        found = function(values)
        if found.dtype == dtype:
            found.flat[-1] = np.nextafter(found.flat[-1], dtype(np.inf))
        return found

    monkeypatch.setattr(np, name, other)
    assert numeric_digest() != expected
