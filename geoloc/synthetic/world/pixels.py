"""Compiled basics: values to bytes, and a decorator for functions that only borrow the arrays of their callers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import numpy as np
from numba import njit

from geoloc.synthetic.world.noise import Scalar

_Function = TypeVar("_Function", bound=Callable[..., Any])


def borrowing(
    *, forceinline: bool = False, error_model: Literal["python", "numpy"] = "python"
) -> Callable[[_Function], _Function]:
    """Compile a function that allocates and returns no array, without counting references to its arguments.

    numba counts a reference to every array of a bundle at every call. With a call per ray or pixel, that makes
    pictures a third slower.
    """
    options: dict[str, Any] = {"_nrt": False, "forceinline": forceinline, "error_model": error_model}
    decorate: Callable[[_Function], _Function] = njit(cache=True, nogil=True, **options)
    return decorate


@njit(cache=True, nogil=True)
def to_byte(value: Scalar) -> Scalar:
    """A number cut to 0..255 and rounded down to a whole one."""
    return np.uint8(min(max(value, np.float32(0)), np.float32(255)))
