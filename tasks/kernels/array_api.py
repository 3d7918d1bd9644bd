"""The passes in any other array namespace (CuPy on GPUs): same results to rounding, same tree of partitions."""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

from tasks.kernels.pointwise import LOGISTIC, MULTINOMIAL
