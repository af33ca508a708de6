"""Reading pickles without executing them.

A pickle is a program for a stack machine. Python's own `pickle` imports and calls what the program names; even with a
restricted `find_class` it resizes its memo to an index that the file chooses, and hashes whatever the file makes a key.
This machine knows the few operations that files of tensors are written with. It imports nothing: what a pickle names is
a `Name`, and the one function that it may call is given by whoever reads the file.
"""

from __future__ import annotations

import itertools
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

_OPERATIONS = 2_000_000  # the largest published checkpoints need some fifty thousand
_TOLD = 200  # characters of a message, which may hold what is in the file
_KEYS = (str, int, float, bool, type(None))  # of dictionaries: hashing a nested tuple can take for ever


class PickleError(ValueError):
    """The data is not a pickle, is damaged, or uses operations that are not supported."""


@dataclass(frozen=True, slots=True)
class Name:
    """A module and a name that a pickle refers to; it is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module[:_TOLD]}.{self.name[:_TOLD]}"


class Machine:
    """One run over one pickle.

    What it makes is a graph, not a tree: a value may be part of many others, so that a few bytes describe a tuple which
    it takes for ever to show, to hash or to compare. Whoever gets one asks for its type first.

    Args:
        call: what to put in the place of ``name(*arguments)``; raises `PickleError` for a name it does not know.
        persistent: what to put in the place of an object that the pickle refers to from outside.
        build: called with an object that `call` returned and the state that the pickle would set on it.
    """

    def __init__(
        self,
        call: Callable[[Name, tuple[Any, ...]], object],
        persistent: Callable[[object], object],
        build: Callable[[object, object], None],
    ) -> None:
        self._call, self._persistent, self._build = call, persistent, build
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, file: BinaryIO) -> Any:
        """The object that the pickle at the file's position describes; the file is left just behind it.

        Raises:
            PickleError: see there.
        """
        try:
            for operation, argument, _ in itertools.islice(pickletools.genops(file), _OPERATIONS):
                if operation.name == "STOP":
                    return self._pop()
                self._STEPS.get(operation.name, _refused(operation.name))(self, argument)
        except PickleError:
            raise
        # What is wrong with a damaged pickle, pickletools says with ValueError.
        except (ValueError, LookupError, TypeError, OverflowError, struct.error) as error:
            raise PickleError(f"a damaged pickle ({type(error).__name__}: {str(error)[:_TOLD]})") from error
        raise PickleError(f"more than {_OPERATIONS} operations")

    def _pop(self) -> Any:
        if self._marks and self._marks[-1] == len(self._stack):
            raise PickleError("a damaged pickle (nothing where a value is needed)")
        return self._stack.pop()

    def _pop_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _nothing(self, _: Any) -> None:
        """PROTO: the operations tell by themselves which protocol they are from."""

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._pop_mark()))

    def _append(self, _: Any) -> None:
        value = self._pop()
        self._container(list).append(value)

    def _appends(self, _: Any) -> None:
        values = self._pop_mark()
        self._container(list).extend(values)

    def _setitem(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._set(key, value)

    def _setitems(self, _: Any) -> None:
        items = self._pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._set(key, value)

    def _set(self, key: object, value: object) -> None:
        if not isinstance(key, _KEYS):
            raise PickleError(f"a dictionary with a {type(key).__name__} as a key")
        self._container(dict)[key] = value

    def _container(self, kind: type) -> Any:
        container = self._stack[-1]
        if not isinstance(container, kind):
            raise PickleError(f"a damaged pickle (a {type(container).__name__} used as a {kind.__name__})")
        return container

    def _global(self, names: str) -> None:
        module, _, name = names.partition(" ")
        self._stack.append(Name(module, name))

    def _reduce(self, _: Any) -> None:
        arguments, name = self._pop(), self._pop()
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise PickleError("a damaged pickle (a call of what is no name)")
        self._stack.append(self._call(name, arguments))

    def _state(self, _: Any) -> None:
        state = self._pop()
        self._build(self._stack[-1], state)

    def _persistent_id(self, _: Any) -> None:
        self._stack.append(self._persistent(self._pop()))

    def _fixed_tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    # What each operation does with its argument. An operation that is missing here is refused.
    _STEPS: ClassVar[dict[str, Callable[[Machine, Any], None]]] = {
        "PROTO": _nothing,
        "NONE": lambda self, _: self._push(None),
        "NEWTRUE": lambda self, _: self._push(value=True),
        "NEWFALSE": lambda self, _: self._push(value=False),
        "EMPTY_TUPLE": lambda self, _: self._push(()),
        "EMPTY_LIST": lambda self, _: self._push([]),
        "EMPTY_DICT": lambda self, _: self._push({}),
        **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"), _push),
        # Python 2 wrote the names of tensors as the second and third.
        **dict.fromkeys(("BINUNICODE", "BINSTRING", "SHORT_BINSTRING"), _push),
        "MARK": _mark,
        **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _put),
        **dict.fromkeys(("BINGET", "LONG_BINGET"), _get),
        "TUPLE": _tuple,
        "TUPLE1": lambda self, _: self._fixed_tuple(1),
        "TUPLE2": lambda self, _: self._fixed_tuple(2),
        "TUPLE3": lambda self, _: self._fixed_tuple(3),
        "APPEND": _append,
        "APPENDS": _appends,
        "SETITEM": _setitem,
        "SETITEMS": _setitems,
        "GLOBAL": _global,
        **dict.fromkeys(("REDUCE", "NEWOBJ"), _reduce),
        "BUILD": _state,
        "BINPERSID": _persistent_id,
    }


def _refused(operation: str) -> Callable[[Machine, Any], None]:
    def refuse(_machine: Machine, _argument: Any) -> None:
        raise PickleError(f"the operation {operation}, which no file of tensors needs")

    return refuse
