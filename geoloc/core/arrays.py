"""Names of array types. A shape stands in the docstring of whoever takes or gives an array."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

AnyArray = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
HalfArray = npt.NDArray[np.float16]
IntArray = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.uint8]
"""Packed hash codes, uint8[N, bits // 8], the most significant bit first."""
Pixels = npt.NDArray[np.uint8]
"""RGB pictures, uint8[H, W, 3] or uint8[N, H, W, 3]."""
Embeddings = npt.NDArray[np.float32]
"""Float embeddings, float32[N, dim]."""
