"""What may run on a worker: pure functions and small types over arrays.

`tasks` imports NumPy, SciPy and numba (CuPy when asked), pandas, fsspec and h5py to read rows where they live; never dask, never
scikit-learn, never `pipeline`.
"""

from typing import Final

__version__: Final = "0.1.0"
DISTRIBUTION: Final = "dask-descent"
