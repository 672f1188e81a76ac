"""The official CIFAR files are pickles. This reads the few things that such a file holds, and nothing that could run.

No global of a pickle is ever imported. The handful of names that the files use stand for objects of this module, which
take plain values and make plain arrays; every other name is refused.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from tailkeep.errors import BadInput

_DTYPES = {"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "b1"}
_ENCODED_LIMIT = 512 << 20
"""Bytes that the strings of one file may decode to: a memoised string can be asked for again and again."""


class _Inert:
    """Something a pickle may call but not change."""

    __slots__ = ()

    def __setstate__(self, state: object) -> NoReturn:
        raise pickle.UnpicklingError("it changes a name that it uses")


class _Encode(_Inert):
    """``_codecs.encode`` as Python 3 writes bytes with protocol 2: Latin-1 text, no other codec."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = _ENCODED_LIMIT

    def __call__(self, text: object, encoding: object = "latin1") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError("it encodes something that is not Latin-1 text")
        self._left -= len(text)
        if self._left < 0:
            raise pickle.UnpicklingError("its strings are too large")
        return text.encode("latin1")


class _Dtype:
    """Stands for a numpy dtype of plain numbers."""

    __slots__ = ("code", "order")

    def __init__(self, code: object, align: object = False, copy: object = False) -> None:
        name = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(name, str) or name not in _DTYPES:
            # Never shown with repr where it is no string: lists within lists would unfold for ever.
            shown = repr(name[:20]) if isinstance(name, str) else f"a {type(name).__name__}"
            raise pickle.UnpicklingError(f"it holds an array of {shown}, not of plain numbers")
        self.code, self.order = name, "<"

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("it holds an array of an unknown byte order")
        self.order = "<" if order == "=" else str(order)


class _Array:
    """Stands for a numpy array; ``value`` is the array once its state was read."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: NDArray[Any] | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("it holds an array in an unknown form")
        _, shape, dtype, fortran, raw = state
        if not isinstance(shape, tuple) or not all(isinstance(n, int) and 0 <= n < 1 << 31 for n in shape):
            raise pickle.UnpicklingError("it holds an array of a strange shape")
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("it holds an array that is not of plain numbers")
        flat = np.frombuffer(raw, dtype=np.dtype(dtype.order + dtype.code))
        self.value = flat.reshape(shape, order="F" if fortran else "C")


class _ArrayType(_Inert):
    """``numpy.ndarray``, which a pickle only names, never calls."""

    __slots__ = ()


class _Reconstruct(_Inert):
    """``numpy.core.multiarray._reconstruct``: an empty array whose state follows."""

    __slots__ = ()

    def __call__(self, kind: object, shape: object, code: object) -> _Array:
        if not isinstance(kind, _ArrayType):
            raise pickle.UnpicklingError("it holds a kind of array that is not numpy.ndarray")
        return _Array()


def _refuse(unpickler: Any) -> NoReturn:
    raise pickle.UnpicklingError("it holds a set or a buffer")


# The pure-Python unpickler: the one in C trusts sizes in the file (a memo index can make it ask for all the memory).
class _Restricted(pickle._Unpickler):
    # Refused: a bytearray, made in the size that the file claims before a byte of it is there, and sets, which hash.
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        **{
            code[0]: _refuse
            for code in (
                pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER,
                pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET,
            )
        },
        pickle.SETITEM[0]: lambda self: self.set_item(),
        pickle.SETITEMS[0]: lambda self: self.set_items(),
        pickle.DICT[0]: lambda self: self.make_dict(),
    }  # fmt: skip
    stack: list[Any]

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self._name = name
        self._encode = _Encode()

    def set_item(self) -> None:
        _check_keys(self.stack[-2:-1])
        super().load_setitem()  # type: ignore[misc]

    def set_items(self) -> None:
        _check_keys(self.stack[::2])  # (since the mark)
        super().load_setitems()  # type: ignore[misc]

    def make_dict(self) -> None:
        _check_keys(self.stack[::2])
        super().load_dict()  # type: ignore[misc]

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return _Dtype if name == "dtype" else _ArrayType()
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _Reconstruct()
        raise BadInput(
            f"{self._name}: refused, it asks for {module}.{name}; the official CIFAR files hold only plain values and "
            "numpy arrays, and nothing else is ever loaded"
        )


def _check_keys(keys: list[Any]) -> None:
    """Refuse keys other than names and numbers: the hash of tuples within tuples takes for ever in a small file."""
    if not all(type(key) in (str, bytes, int) for key in keys):
        raise pickle.UnpicklingError("it holds a mapping whose keys are not names or numbers")


def restricted_loads(data: bytes, name: str) -> dict[Any, Any]:
    """Return the mapping that a CIFAR pickle holds: its values are lists, strings, bytes, numbers or numpy arrays.

    ``name`` is the file as errors name it. Raises ``BadInput`` where the file asks for any other global, is cut short,
    is no pickle at all or holds no mapping. What lies inside the lists is for the caller to check.
    """
    try:
        value = _Restricted(data, name).load()
    except BadInput:
        raise
    # A malformed file can end in nearly any exception inside the unpickler; none of them is our own fault.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise BadInput(f"{name}: cannot be read as a CIFAR file ({reason}); is the download complete?") from error
    if not isinstance(value, dict):
        raise BadInput(f"{name}: holds a {type(value).__name__.lstrip('_')}, a CIFAR file holds a mapping")
    # Only the mapping's own values are unwrapped: to follow lists within lists would let a small file unfold for ever.
    return {key: item.value if isinstance(item, _Array) else item for key, item in value.items()}
