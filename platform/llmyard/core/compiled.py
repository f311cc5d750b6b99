"""Functions compiled to machine code by Numba at their first call, and kept on disk for the next process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numba
import numpy.typing as npt

Function = TypeVar("Function", bound=Callable[..., Any])

# Arrays by their element type. To the type checker the elements are Any: Numba promotes numbers by rules of its own.
Bools: TypeAlias = npt.NDArray[Any]
U8: TypeAlias = npt.NDArray[Any]
U32: TypeAlias = npt.NDArray[Any]
U64: TypeAlias = npt.NDArray[Any]
I16: TypeAlias = npt.NDArray[Any]
I32: TypeAlias = npt.NDArray[Any]
I64: TypeAlias = npt.NDArray[Any]
F32: TypeAlias = npt.NDArray[Any]
F64: TypeAlias = npt.NDArray[Any]
Number: TypeAlias = Any


def compiled(function: Function) -> Function:
    """Returns the function compiled without Python objects; it releases the interpreter's lock while it runs."""
    return cast(Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))
