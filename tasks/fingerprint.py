"""What a process says of its code and of the bits that its CPU gives."""

from __future__ import annotations

import hashlib
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import linalg

from tasks.threads import single_blas_thread


@cache
def code_digest() -> str:
    """SHA-256 over the sources of this package."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def numeric_digest() -> str:
    """SHA-256 of small matrix products and a factorisation: differs where BLAS picks other kernels."""
    values = np.sin(np.arange(257 * 67, dtype=np.float64)).reshape(257, 67)
    with single_blas_thread():
        product = values.T @ values
        squares = linalg.blas.dsyrk(1.0, values.T)  # what Hessians take
        factor = linalg.cholesky(product + 67 * np.eye(67), lower=True)
    return hashlib.sha256(product.tobytes() + squares.tobytes() + factor.tobytes()).hexdigest()


def worker_report() -> dict[str, Any]:
    """Compared between the client and every worker once a cluster."""
    return {"code": code_digest(), "numeric": numeric_digest(), "python": sys.version_info[:2]}
