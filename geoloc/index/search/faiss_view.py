"""A shard's codes as a FAISS index where they lie: mapped, without a copy.

FAISS calls a vector that it does not own a view. Its Python module shows no class for the owner of a view, so the view
gets the empty owner of a fresh vector, and the index holds the array itself.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from geoloc.core.arrays import Codes


def flat_view(codes: Codes) -> Any:
    """A `faiss.IndexBinaryFlat` over codes uint8[N, B], C-contiguous; row r of the codes has the label r.

    It reads the codes where they are and keeps them alive. It cannot grow. Equal distances have the order of labels.
    """
    index: Any = faiss.IndexBinaryFlat(8 * codes.shape[1])
    vector: Any = faiss.MaybeOwnedVectorUInt8
    if codes.size:
        flat = np.ascontiguousarray(codes).reshape(-1)
        index.xb = vector.create_view(faiss.swig_ptr(flat), flat.size, vector().owner)
        index.geoloc_codes = flat  # FAISS keeps no reference
    index.ntotal = len(codes)
    return index
