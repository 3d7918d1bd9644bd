"""What may run on a worker: pure functions and small types over arrays.

`tasks` imports NumPy, SciPy and numba (CuPy when asked), never dask, never scikit-learn, never `pipeline`.
"""

from typing import Final

__version__: Final = "0.1.0"
DISTRIBUTION: Final = "dask-descent"
