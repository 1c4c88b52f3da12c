"""Thread settings that must be in place before numpy, torch, faiss or onnxruntime load.

OpenMP pools spin while they wait; with a busy neighbour that made one faiss query up to a hundred times
slower. Import this module first in every entry point: manage.py, wsgi, celery, `python -m ml`, the tests.
"""

import os

DEFAULTS = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def apply() -> None:
    """Set each default that the environment leaves open. Calling it twice changes nothing."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


apply()
