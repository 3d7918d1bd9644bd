"""What the hot loops know losses by."""

from __future__ import annotations

from typing import Final

SQUARED: Final = 0
LOGISTIC: Final = 1
MULTINOMIAL: Final = 2
HINGE: Final = 3
SQUARED_HINGE: Final = 4
MODIFIED_HUBER: Final = 5
HUBER: Final = 6
EPSILON_INSENSITIVE: Final = 7
SQUARED_EPSILON_INSENSITIVE: Final = 8
