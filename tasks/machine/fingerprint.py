"""The fingerprint of a process: what it says of the bits that its CPU gives."""

from __future__ import annotations

import hashlib

import numpy as np
from scipy import linalg

from tasks.machine.threads import single_blas_thread


def numeric_digest() -> str:
    """SHA-256 of small matrix products, a factorisation and the functions that networks take of their raw predictions: differs where BLAS
    or NumPy pick other kernels."""
    values = np.sin(np.arange(257 * 67, dtype=np.float64)).reshape(257, 67)
    single = values.astype(np.float32)
    with single_blas_thread():
        product = values.T @ values
        factor = linalg.cholesky(product + 67 * np.eye(67), lower=True)
        results = [product, factor, single.T @ single]
    for each in (values, single):
        results += [np.exp(16.0 * each), np.tanh(4.0 * each), np.log1p(abs(each)), np.log(abs(each) + 0.5)]
    return hashlib.sha256(b"".join(result.tobytes() for result in results)).hexdigest()
