"""Functions compiled to machine code by Numba at their first call, and kept on disk for the next process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numba
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.core.cgutils import get_item_pointer
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])

# Arrays by their element type. To the type checker the elements are Any: Numba promotes numbers by rules of its own.
Bools: TypeAlias = npt.NDArray[Any]
U8: TypeAlias = npt.NDArray[Any]
U32: TypeAlias = npt.NDArray[Any]
U64: TypeAlias = npt.NDArray[Any]
I32: TypeAlias = npt.NDArray[Any]
I64: TypeAlias = npt.NDArray[Any]
F32: TypeAlias = npt.NDArray[Any]
F64: TypeAlias = npt.NDArray[Any]
Number: TypeAlias = Any


def compiled(function: Function) -> Function:
    """Returns the function compiled without Python objects; it releases the interpreter's lock while it runs."""
    return cast(Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


@intrinsic  # type: ignore[untyped-decorator]
def eight_bytes(typing_context: Any, data: Any, at: Any) -> Any:
    """Returns bytes ``at`` to ``at + 8`` of a byte array as one number, the first the lowest; no bounds are checked."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_type, place_type = signature.args
        array = context.make_array(array_type)(context, builder, arguments[0])
        place = context.cast(builder, arguments[1], place_type, types.intp)
        pointer = get_item_pointer(context, builder, array_type, array, [place], wraparound=False, boundscheck=False)
        word = ir.IntType(64)
        load = builder.load(builder.bitcast(pointer, word.as_pointer()))
        load.align = 1
        return load

    return types.uint64(data, at), generate
