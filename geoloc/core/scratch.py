"""Arrays that may be larger than memory: in memory up to a limit, beyond it in a file on the local disk."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def scratch_array(shape: tuple[int, ...], dtype: npt.DTypeLike, limit_bytes: int) -> npt.NDArray[Any]:
    """An array [...] of zeros of any shape; above `limit_bytes` it is mapped from a temporary file."""
    if int(np.prod(shape)) * np.dtype(dtype).itemsize <= limit_bytes:
        return np.zeros(shape, dtype=dtype)
    with tempfile.NamedTemporaryFile(prefix="geoloc-scratch-") as file:
        # The mapping outlives the name: the space is given back when the array goes, even after a kill.
        return np.memmap(Path(file.name), dtype=dtype, mode="w+", shape=shape)
