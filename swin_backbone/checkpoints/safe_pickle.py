"""Read a pickle without running what is in it.

A pickle is a program: it names functions, calls them, and hands objects whatever state it likes.
Even functions that look harmless are not: numpy's dtype takes any state, and then reads memory at
an address of the file's choice; torch's rebuilding functions believe the sizes that they are told.
So nothing of numpy, torch or Python that a file names is ever called here. A file may name what
:data:`~swin_backbone.checkpoints.placeholders.STAND_INS` lists, and gets functions of our own,
which check what they are given and make plain values. What a user has allowed with
:func:`torch.serialization.add_safe_globals` is called as it is.
"""

from __future__ import annotations

import pickletools
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import BinaryIO

import numpy as np
import torch

_DICTS = (dict, OrderedDict, Counter)
#: What may be a key of a dict, or a member of a set. Hashing a tuple of tuples of tuples ... uses
#: the C stack without limit, so that tuples may hold these alone.
_HASHED = (str, bytes, int, float, complex, type(None), torch.dtype, torch.device, np.generic)


#: Calls may handle this many times the bytes of the pickle, and these: a pickle can name the same
#: long value again and again, and have it copied each time.
_HANDLED, _HANDLED_BYTES = 32, 16 * 2**20
_PLACE = 64  # bytes that an item of a container costs, about


class UnsafePickleError(ValueError):
    """A pickle asks for more than it may."""


class UnknownNameError(UnsafePickleError):
    """A pickle names a function or class that it may not use."""


class StandIn:
    """What a name in a pickle stands for.

    Args:
        name: the name, with its module.
        make: makes what calling it gives, from arguments that the file chose.
    """

    def __init__(self, name: str, make: Callable | None = None):
        self.name, self.make = name, make

    def __call__(self, *args):
        if self.make is None:
            raise UnsafePickleError(f"{self.name} may not be called")
        return self.make(*args)

    def __repr__(self) -> str:
        return f"<{self.name} in a checkpoint>"


class Pending:
    """An object that a pickle makes first and describes afterwards.

    Args:
        build: makes it from its state, which the file chose.
    """

    def __init__(self, build: Callable[[object], object]):
        self.build = build
        self.places: list[int] = []  # in the pickle's memory


class _Trusted(StandIn):
    """A function or class that the user has allowed."""

    def __init__(self, name: str, target: Callable):
        super().__init__(name, target)
        self.new = lambda *args: target.__new__(target, *args)


class Reader:
    """Runs one pickle.

    Args:
        names: stand-ins, by the name with its module.
        load_storage: gives the storage that a persistent id names.
    """

    def __init__(self, names: Mapping[str, object], load_storage: Callable[[object], object]):
        self.names, self.load_storage = names, load_storage
        self.trusted = _allowed_by_the_user()

    def read(self, file: BinaryIO):
        """Read a pickle from where the file is; it is then behind it.

        Raises:
            UnsafePickleError: if the pickle asks for more than it may.
            Exception: of many kinds, if it is damaged.
        """
        self.stack, self.marks, self.memory = [], [], {}
        self.handled, start = 0, file.tell()
        self.waiting: dict[int, Pending] = {}
        for opcode, argument, position in pickletools.genops(file):
            self.allowed = _HANDLED * (position - start) + _HANDLED_BYTES
            step = _STEPS.get(opcode.name)
            if step is None:
                raise UnsafePickleError(f"pickles with {opcode.name} are not read")
            step(self, argument)
        if self.waiting:
            raise UnsafePickleError("it makes an object and never says what it is")
        return self.stack.pop()

    def _mark(self, _) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _items(self) -> list:
        """What was pushed since the last mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _pop(self, _) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._items()

    def _pop_mark(self, _) -> None:
        self._items()

    def _dup(self, _) -> None:
        self.stack.append(self.stack[-1])

    # Containers.

    def _tuple(self, _) -> None:
        items = self._items()
        self.stack.append(tuple(items))

    def _tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise UnsafePickleError("a tuple lacks its items")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def _tuple1(self, _) -> None:
        self._tuple_of(1)

    def _tuple2(self, _) -> None:
        self._tuple_of(2)

    def _tuple3(self, _) -> None:
        self._tuple_of(3)

    def _list(self, _) -> None:
        items = self._items()
        self.stack.append(items)

    def _append(self, _) -> None:
        self._extend([self.stack.pop()])

    def _appends(self, _) -> None:
        self._extend(self._items())

    def _extend(self, items: list) -> None:
        if type(self.stack[-1]) is not list:
            raise UnsafePickleError(f"cannot append to {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(items)

    def _dict(self, _) -> None:
        items = self._items()
        self.stack.append({})
        self._update(items)

    def _setitem(self, _) -> None:
        value = self.stack.pop()
        self._update([self.stack.pop(), value])

    def _setitems(self, _) -> None:
        self._update(self._items())

    def _update(self, items: list) -> None:
        target = self.stack[-1]
        if type(target) not in _DICTS or len(items) % 2:
            raise UnsafePickleError(f"cannot set items of {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[checked_key(key)] = value

    def _additems(self, _) -> None:
        items = self._items()
        if type(self.stack[-1]) is not set:
            raise UnsafePickleError(f"cannot add to {type(self.stack[-1]).__name__}")
        self.stack[-1].update(map(checked_key, items))

    def _frozenset(self, _) -> None:
        items = self._items()
        self.stack.append(frozenset(map(checked_key, items)))

    # The memory: places that values are put into and got from.

    def _remember(self, place: int) -> None:
        value = self.stack[-1]
        if isinstance(value, Pending):
            value.places.append(place)
        self.memory[place] = value

    def _memoize(self, _) -> None:
        self._remember(len(self.memory))

    def _recall(self, place: int) -> None:
        self.stack.append(self.memory[place])

    # Names, calls and state.

    def _global(self, argument: str) -> None:
        self._look_up(*argument.split(" ", 1))

    def _stack_global(self, _) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._look_up(module, name)

    def _look_up(self, module: str, name: str) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise UnsafePickleError("a name that is no text")
        module = "builtins" if module == "__builtin__" else module  # Python 2's
        full = f"{module}.{name}"
        if full in self.names:
            self.stack.append(self.names[full])
        elif full in self.trusted:
            self.stack.append(self.trusted[full])
        else:
            raise UnknownNameError(shown(full))

    def _reduce(self, _) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self._call(function, args)

    def _newobj(self, _) -> None:
        args, kind = self.stack.pop(), self.stack.pop()
        self._call(
            kind.new if isinstance(kind, _Trusted) else kind, args, isinstance(kind, _Trusted)
        )

    def _call(self, function, args, trusted: bool = False) -> None:
        if not (trusted or isinstance(function, StandIn)) or not isinstance(args, tuple):
            raise UnsafePickleError(f"cannot call {type(function).__name__}")
        if trusted or isinstance(function, _Trusted):
            args = tuple(a.make if isinstance(a, _Trusted) else a for a in args)
        self._handle(args)
        made = function(*args)
        if isinstance(made, Pending):
            self.waiting[id(made)] = made
        self.stack.append(made)

    def _handle(self, values) -> None:
        self.handled += _weight(values, self.allowed - self.handled)
        if self.handled > self.allowed:
            raise UnsafePickleError("it copies the same values again and again")

    def _build(self, _) -> None:
        state = self.stack.pop()
        self._handle(state)
        target = self.stack[-1]
        if isinstance(target, Pending):
            self.stack[-1] = made = target.build(state)
            self.waiting.pop(id(target), None)
            for place in target.places:
                self.memory[place] = made
        elif type(target) is OrderedDict:
            _set_versions(target, state)
        elif any(type(target) is trusted.make for trusted in self.trusted.values()):
            _set_state(target, state)
        else:
            raise UnsafePickleError(f"{type(target).__name__} takes no state")

    def _binpersid(self, _) -> None:
        self.stack.append(self.load_storage(self.stack.pop()))


def checked_key(key):
    """A key of a dict that can be hashed without harm.

    Raises:
        UnsafePickleError: if it is another one.
    """
    if isinstance(key, _HASHED) or (
        type(key) is tuple and all(isinstance(item, _HASHED) for item in key)
    ):
        return key
    raise UnsafePickleError(f"{type(key).__name__} as a key")


def _weight(value, limit: int, depth: int = 2) -> int:
    """Bytes of a value, about: of its items too, and of theirs; it stops counting at a limit."""
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    if isinstance(value, np.ndarray):
        return value.nbytes
    if not isinstance(value, tuple | list | dict | set | frozenset):
        return 0
    weight = _PLACE * len(value)
    if depth:
        for item in value.values() if isinstance(value, dict) else value:
            if weight > limit:
                break
            weight += _weight(item, limit - weight, depth - 1)
    return weight


def shown(value) -> str:
    """A value of a file in words: lists that hold a list many times are endless when written."""
    if isinstance(value, str | bytes):
        return repr(value[:80])
    if isinstance(value, bool | float | None) or (isinstance(value, int) and abs(value) < 2**64):
        return repr(value)
    return f"<{type(value).__name__}>"


def _set_versions(target: OrderedDict, state) -> None:
    """The one attribute that torch gives a state dict: its modules' versions."""
    versions = state.get("_metadata") if isinstance(state, dict) else None
    if isinstance(versions, dict):
        target._metadata = versions


def _set_state(target, state) -> None:
    if hasattr(target, "__setstate__"):
        target.__setstate__(state)
    elif isinstance(state, dict):
        target.__dict__.update(state)
    else:
        raise UnsafePickleError(f"{type(target).__name__} takes no such state")


def _allowed_by_the_user() -> dict[str, _Trusted]:
    """What :func:`torch.serialization.add_safe_globals` was given, torch's own things excepted.

    Parts of torch add their classes when they are imported, which no user has decided on.
    """
    allowed = {}
    for entry in torch.serialization.get_safe_globals():
        function, name = (
            entry
            if isinstance(entry, tuple)
            else (entry, f"{entry.__module__}.{entry.__qualname__}")
        )
        if not name.startswith("torch."):
            allowed[name] = _Trusted(name, function)
    return allowed


#: Opcodes that push what is written behind them.
_VALUES = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
#: What each opcode does, of those that are read: all but extensions, instances of old classes,
#: and buffers beside the pickle.
_STEPS: dict[str, Callable[[Reader, object], None]] = {
    **dict.fromkeys(_VALUES, lambda reader, value: reader.stack.append(value)),
    **{
        opcode: lambda reader, _, value=value: reader.stack.append(value)
        for opcode, value in _CONSTANTS.items()
    },
    **{
        opcode: lambda reader, _, kind=kind: reader.stack.append(kind())
        for opcode, kind in _EMPTY.items()
    },
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda *_: None),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), Reader._remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Reader._recall),
    **{
        opcode: getattr(Reader, f"_{opcode.lower()}")
        for opcode in (
            *("MARK", "POP", "POP_MARK", "DUP", "MEMOIZE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
            *("LIST", "APPEND", "APPENDS", "DICT", "SETITEM", "SETITEMS", "ADDITEMS", "FROZENSET"),
            *("GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID"),
        )
    },
}
