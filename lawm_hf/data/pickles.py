# SPDX-License-Identifier: Apache-2.0
"""Arrays out of a stranger's pickle: nothing it asks for is run, and memory follows its size."""

import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from .bad_clips import BadClipError, regular

# What plain containers, numbers, texts and arrays are written with. Absent are whatever makes
# objects in other ways than `REDUCE`, and sets.
_OPCODES = (
    b"(.012FIJKLMNRSTUVXabcd}eghjl]pqrst)uG"
    b"\x80\x85\x86\x87\x88\x89\x8a\x8bBC\x8c\x8d\x8e\x93\x94\x95\x96"
)
_NUMBERS = re.compile(r"[<>=|]?[biuf][1248]")


class Call:
    """Something that a pickle asks to be called: remembered, not called.

    Args:
        name: Module and name, with a dot.
    """

    def __init__(self, name: str):
        self.name = name
        self.arguments: tuple[Any, ...] = ()
        self.state: Any = None
        self.items: dict[Any, Any] = {}

    def __getitem__(self, key: Any) -> Any:
        return self.items[key]  # of an `OrderedDict`

    def __len__(self) -> int:
        return len(np.asarray(self))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The numbers, if it is one of the ways in which numpy writes an array of plain numbers."""
        function = re.sub(r"^numpy\.(_?core\.(multiarray|numeric)\.)?", "", self.name)
        match function, self.arguments, self.state:
            case "_reconstruct", _, (_, tuple(shape), Call() as kind, bool(fortran), bytes(data)):
                order = "F" if fortran else "C"
            case "_frombuffer", (bytes(data), Call() as kind, tuple(shape), str(order)), _:
                pass
            case "scalar", (Call() as kind, bytes(data)), _:
                shape, order = (), "C"
            case _:
                raise BadClipError(f"the pickle asks for {self.name}, which is not allowed here")
        values: Any = np.frombuffer(data, kind.dtype())
        return values.reshape(shape, order=order).astype(dtype)

    def dtype(self) -> np.dtype:
        """The type of plain numbers that it stands for."""
        text = self.arguments[0] if self.name == "numpy.dtype" and self.arguments else None
        # The state is (version, byte order, subarray, names, fields, …).
        order = self.state[1] if self.state else "|"
        if not isinstance(text, str) or not _NUMBERS.fullmatch(text) or order not in "<>|=":
            raise BadClipError(f"the pickle asks for numbers of type {text} as {self.name}")
        return np.dtype(text).newbyteorder(order)


_PythonsReader: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Reader(_PythonsReader):
    """Python's own reader in Python, whose memory grows with what it has read.

    The one in C takes what a length or a number of the memo declares before it looks for it.
    """

    dispatch = {c: load for c, load in _PythonsReader.dispatch.items() if c in _OPCODES}  # noqa: RUF012

    def find_class(self, module: str, name: str) -> Call:
        """Whatever it is, it is only noted."""
        return Call(f"{module}.{name}")

    def load_reduce(self) -> None:
        """`function(*arguments)`."""
        arguments, function = self.stack.pop(), self.stack[-1]
        if not isinstance(function, Call) or not isinstance(arguments, tuple):
            raise BadClipError("the pickle calls what is no function")
        if function.name == "_codecs.encode":  # how old protocols write bytes
            self.stack[-1] = str(arguments[0]).encode("latin1")
            return
        self.stack[-1] = Call(function.name)
        self.stack[-1].arguments = arguments

    def load_build(self) -> None:
        """`object.__setstate__(state)`."""
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, Call):
            raise BadClipError("the pickle sets the state of a plain value")
        target.state = state

    def load_setitems(self) -> None:
        """`dictionary[key] = value`; a key of nested tuples could exhaust the stack."""
        pairs = self.pop_mark()
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            self._set(key, value)

    def load_setitem(self) -> None:
        """The same for one."""
        value, key = self.stack.pop(), self.stack.pop()
        self._set(key, value)

    def load_dict(self) -> None:
        """A whole dictionary."""
        pairs = self.pop_mark()
        self.append({})
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            self._set(key, value)

    def load_bytearray8(self) -> None:
        """The bytes of an array in protocol 5."""
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    def _set(self, key: Any, value: Any) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, Call) else target
        if not isinstance(items, dict) or not isinstance(key, str | bytes | int):
            raise BadClipError("a key of the pickle is neither text nor number")
        items[key] = value

    for _name in ("REDUCE", "BUILD", "SETITEMS", "SETITEM", "DICT", "BYTEARRAY8"):
        dispatch[getattr(pickle, _name)[0]] = locals()[f"load_{_name.lower()}"]


def load_pickle(path: Path) -> Any:
    """Containers, texts and numbers of a pickle, and a `Call` wherever it asks for one.

    Raises:
        BadClipError: If it holds anything else, or is damaged.
    """
    try:
        return _Reader(io.BytesIO(regular(path).read_bytes())).load()
    except OSError:
        raise
    except Exception as error:
        raise BadClipError(
            f"{path.name} cannot be read: {error or type(error).__name__}"
        ) from error
