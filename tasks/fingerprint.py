"""What a process says of the bits that its CPU gives."""

from __future__ import annotations

import hashlib

import numpy as np
from scipy import linalg

from tasks.threads import single_blas_thread


def numeric_digest() -> str:
    """SHA-256 of small matrix products and a factorisation: differs where BLAS picks other kernels."""
    values = np.sin(np.arange(257 * 67, dtype=np.float64)).reshape(257, 67)
    with single_blas_thread():
        product = values.T @ values
        squares = linalg.blas.dsyrk(1.0, values.T)  # what Hessians take
        factor = linalg.cholesky(product + 67 * np.eye(67), lower=True)
    return hashlib.sha256(product.tobytes() + squares.tobytes() + factor.tobytes()).hexdigest()
