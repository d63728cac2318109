"""What a pickle in a checkpoint may name, and what it gets: plain values, checked."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .safe_pickle import Pending, StandIn, UnsafePickleError, checked_key, shown

#: Dtypes of tensors: every one whose elements are whole bytes and plain numbers.
TENSOR_DTYPES = tuple(
    dtype
    for name in (
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
    )
    if (dtype := getattr(torch, name, None)) is not None
)
#: Dtypes of arrays, as pickles name them.
ARRAY_DTYPES = (
    "b1",
    *(f"{k}{n}" for k in "iu" for n in (1, 2, 4, 8)),
    "f2",
    "f4",
    "f8",
    "c8",
    "c16",
)
#: All tensors of a file together may have this many times the bytes that it stores, and these:
#: some share a storage, some repeat a row by a stride of zero, and whoever copies them pays.
REPEATED = 4
REPEATED_BYTES = 64 * 2**20
_STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16,
    "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32, "Short": torch.int16,
    "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
    "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
}  # fmt: skip


class StorageKind(StandIn):
    """A class of storages, which names the dtype of their elements."""

    def __init__(self, name: str, dtype: torch.dtype):
        super().__init__(name)
        self.dtype = dtype


@dataclass
class Storage:
    """Bytes that tensors are views of."""

    content: torch.UntypedStorage
    dtype: torch.dtype
    checked: bool = False  # for booleans


def _integers(values, what: str) -> tuple[int, ...]:
    """Sizes: integers from zero to what an index can be."""
    if not isinstance(values, tuple | list | torch.Size):
        raise UnsafePickleError(f"{what} must be integers, got {type(values).__name__}")
    if not all(type(value) is int and 0 <= value < 2**62 for value in values):
        raise UnsafePickleError(f"{what} must be integers from 0 to 2**62")
    if len(values) > 32:
        raise UnsafePickleError(f"{what} has {len(values)} numbers, at most 32 are read")
    return tuple(values)


class Tensors:
    """Makes the tensors of one file, and keeps account of what they claim."""

    def __init__(self) -> None:
        self.stored = self.claimed = 0

    def names(self) -> dict[str, StandIn]:
        """Stand-ins for torch's rebuilding functions."""
        functions: dict[str, Callable] = {
            "torch._utils._rebuild_tensor": self._rebuild,
            "torch._utils._rebuild_tensor_v2": self._rebuild_v2,
            "torch._utils._rebuild_tensor_v3": self._rebuild_v3,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_parameter_with_state": _parameter,
            "torch._tensor._rebuild_from_type_v2": _of_type,
            "torch._utils._rebuild_device_tensor_from_numpy": self._on_a_device,
            "torch._utils._rebuild_device_tensor_from_cpu_tensor": self._on_a_device,
        }
        return {name: StandIn(name, make) for name, make in functions.items()}

    def _rebuild(self, storage, offset, size, stride, dtype=None) -> Tensor:
        """A view of a storage that lies within it."""
        if not isinstance(storage, Storage):
            raise UnsafePickleError(f"a tensor of {type(storage).__name__}, which is no storage")
        size, stride = _integers(size, "a tensor's shape"), _integers(stride, "a tensor's strides")
        (offset,) = _integers((offset,), "a tensor's offset")
        dtype = dtype or storage.dtype
        if dtype not in TENSOR_DTYPES or len(size) != len(stride):
            raise UnsafePickleError(f"a tensor of {dtype} with shape {size} and strides {stride}")
        count = math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        have = storage.content.nbytes()
        if count and (last + 1) * dtype.itemsize > have:
            raise UnsafePickleError(
                f"a tensor of shape {size} and strides {stride} reaches beyond its {have} bytes"
            )
        if count >= 2**62:
            raise UnsafePickleError(f"a tensor of shape {size} has too many elements")
        self._account(count * dtype.itemsize, size)
        if dtype is torch.bool and not storage.checked:
            refuse_odd_booleans(storage.content)
            storage.checked = True
        tensor = torch.empty(0, dtype=dtype, device=storage.content.device)
        return tensor.set_(storage.content, offset, size, stride)

    def _account(self, claim: int, size: tuple[int, ...]) -> None:
        self.claimed += claim
        if self.claimed > REPEATED * self.stored + REPEATED_BYTES:
            raise UnsafePickleError(
                f"its tensors repeat what it stores too often: with one of shape {size} they have "
                f"{self.claimed} bytes, made of {self.stored}; allowed are {REPEATED} times what "
                f"is stored and {REPEATED_BYTES} more"
            )

    def _rebuild_v2(self, storage, offset, size, stride, grad, hooks=None, metadata=None) -> Tensor:
        return _with_flags(self._rebuild(storage, offset, size, stride), grad, metadata)

    def _rebuild_v3(self, storage, offset, size, stride, grad, hooks, dtype, metadata=None):
        if not isinstance(dtype, torch.dtype):
            raise UnsafePickleError(f"a tensor of dtype {type(dtype).__name__}")
        return _with_flags(self._rebuild(storage, offset, size, stride, dtype), grad, metadata)

    def _on_a_device(self, data, dtype, device, grad) -> Tensor:
        """What was on a device of a kind that has no storages of its own; it comes to the CPU."""
        data = torch.from_numpy(native(data)) if isinstance(data, np.ndarray) else _tensor(data)
        if dtype not in TENSOR_DTYPES:
            raise UnsafePickleError(f"a tensor of dtype {shown(dtype)}")
        self._account(data.numel() * dtype.itemsize, tuple(data.shape))
        return _with_flags(data.detach().to(dtype), grad, None)


def _with_flags(tensor: Tensor, grad, metadata) -> Tensor:
    if metadata:
        raise UnsafePickleError("a tensor that is conjugated or negated only when it is used")
    learnable = tensor.is_floating_point() or tensor.is_complex()
    return tensor.requires_grad_(grad is True and learnable)


def _parameter(data, grad, hooks=None, state=None) -> torch.nn.Parameter:
    """A parameter; attributes that somebody gave it say nothing of its values."""
    tensor = _tensor(data)
    return torch.nn.Parameter(tensor.detach(), grad is True and tensor.is_floating_point())


def _of_type(function, kind, args, state=None) -> Tensor:
    """A tensor with attributes, which say nothing of its values; of no other class."""
    if not isinstance(kind, StandIn) or kind.name not in _TENSOR_CLASSES:
        raise UnsafePickleError(f"a tensor of class {shown(kind)}")
    if not isinstance(function, StandIn) or not isinstance(args, tuple):
        raise UnsafePickleError(f"a tensor that {type(function).__name__} makes")
    return _tensor(function(*args))


def _tensor(value) -> Tensor:
    if not isinstance(value, Tensor):
        raise UnsafePickleError(f"{type(value).__name__} where a tensor should be")
    return value


def refuse_odd_booleans(content: torch.UntypedStorage) -> None:
    """A boolean is a byte of 0 or 1; what programs do with another one is undefined."""
    if content.device.type != "meta" and content.nbytes():
        values = torch.empty(0, dtype=torch.uint8, device=content.device)
        values.set_(content, 0, (content.nbytes(),), (1,))
        if values.max() > 1:
            raise UnsafePickleError("booleans that are neither true nor false")


# numpy's.


class _Dtype(Pending):
    """A dtype of numpy, of which the file may say the order of bytes and nothing else."""

    def __init__(self, kind, *_):
        kind = kind.decode("ascii", "replace") if isinstance(kind, bytes) else kind
        if kind not in ARRAY_DTYPES:
            raise UnsafePickleError(
                f"an array of dtype {shown(kind)}; those of plain numbers are read: "
                f"{', '.join(ARRAY_DTYPES)}"
            )
        self.value = np.dtype(kind)
        super().__init__(self._ordered)

    def _ordered(self, state) -> np.dtype:
        """From numpy's state: version, order, and what only structured dtypes have."""
        order = state[1] if isinstance(state, tuple) and 5 <= len(state) <= 9 else None
        if order not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise UnsafePickleError("an array whose dtype is not a plain number's")
        return self.value.newbyteorder(order)


def _dtype(value) -> np.dtype:
    if isinstance(value, _Dtype):
        return value.value
    if isinstance(value, np.dtype):  # made by one of the above
        return value
    raise UnsafePickleError(f"{type(value).__name__} where a dtype should be")


def _array(content, dtype, shape, order) -> np.ndarray:
    """An array of exactly these bytes."""
    dtype, shape = _dtype(dtype), _integers(shape, "an array's shape")
    content = content.encode("latin1") if isinstance(content, str) else content  # Python 2's
    if not isinstance(content, bytes | bytearray):
        raise UnsafePickleError(f"an array made of {type(content).__name__}")
    if math.prod(shape) * dtype.itemsize != len(content):
        raise UnsafePickleError(
            f"an array of shape {shape} and dtype {dtype} made of {len(content)} bytes"
        )
    flat = np.frombuffer(content, "u1" if dtype.kind == "b" else dtype)
    flat = flat != 0 if dtype.kind == "b" else flat
    return np.array(flat.reshape(shape, order="F" if order else "C"), order="K")


def _reconstruct(kind, shape, typecode) -> Pending:
    """An array that is described afterwards."""
    if not isinstance(kind, StandIn) or kind.name != "numpy.ndarray":
        raise UnsafePickleError(f"an array of class {shown(kind)}")

    def build(state):
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise UnsafePickleError("an array without shape, dtype and content")
        shape, dtype, by_columns, content = state[-4:]
        return _array(content, dtype, shape, by_columns)

    return Pending(build)


def _frombuffer(content, dtype, shape, order) -> np.ndarray:
    return _array(content, dtype, shape, order == "F")


def _scalar(dtype, content) -> np.generic:
    return _array(content, dtype, (), False)[()]


def native(array: np.ndarray) -> np.ndarray:
    """The array with this machine's order of bytes, which torch wants."""
    return array.astype(array.dtype.newbyteorder("="))


# Python's.


def _encode(text, encoding="latin1") -> bytes:
    """How pickles of old protocols spell bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "ascii", "utf-8"):
        raise UnsafePickleError(f"bytes in encoding {shown(encoding)}")
    return text.encode(encoding)


def _bytearray(content=b"", encoding=None) -> bytearray:
    if encoding is not None:
        content = _encode(content, encoding)
    if not isinstance(content, bytes | bytearray):
        raise UnsafePickleError(f"a bytearray made of {type(content).__name__}")
    return bytearray(content)


def _bytes() -> bytes:
    return b""


def _set(items=()) -> set:
    return set(map(checked_key, _list(items)))


def _frozenset(items=()) -> frozenset:
    return frozenset(map(checked_key, _list(items)))


def _list(items) -> list:
    if type(items) not in (list, tuple, set, frozenset):
        raise UnsafePickleError(f"a set made of {type(items).__name__}")
    return list(items)


def _complex(real, imaginary=0.0) -> complex:
    if not all(type(part) in (int, float) for part in (real, imaginary)):
        raise UnsafePickleError("a complex number made of other than numbers")
    return complex(real, imaginary)


def _ordered_dict(pairs=()) -> OrderedDict:
    made = OrderedDict()
    for pair in pairs if type(pairs) in (list, tuple) else [pairs]:
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise UnsafePickleError("an ordered dict made of other than pairs")
        made[checked_key(pair[0])] = pair[1]
    return made


def _counter(counts=None) -> Counter:
    if counts is not None and type(counts) is not dict:
        raise UnsafePickleError(f"a counter made of {type(counts).__name__}")
    return Counter(counts or {})


def _size(values=()) -> torch.Size:
    return torch.Size(_integers(values, "a size"))


def _device(kind, index=None) -> torch.device:
    if not isinstance(kind, str) or not (index is None or type(index) is int):
        raise UnsafePickleError(f"a device made of {type(kind).__name__}")
    return torch.device(kind) if index is None else torch.device(kind, index)


_TENSOR_CLASSES = ("torch.Tensor", "torch.nn.parameter.Parameter")
_FUNCTIONS: dict[str, Callable | None] = {
    **dict.fromkeys(_TENSOR_CLASSES),
    "torch.Size": _size,
    "torch.device": _device,
    "collections.OrderedDict": _ordered_dict,
    "collections.Counter": _counter,
    "_codecs.encode": _encode,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytearray,
    "builtins.set": _set,
    "builtins.frozenset": _frozenset,
    "builtins.complex": _complex,
    "numpy.ndarray": None,
    "numpy.dtype": _Dtype,
    **{f"numpy.{core}.multiarray._reconstruct": _reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _frombuffer for core in ("core", "_core")},
}

#: What a pickle may name besides the tensors that :class:`Tensors` makes.
STAND_INS: dict[str, object] = {
    **{name: StandIn(name, make) for name, make in _FUNCTIONS.items()},
    **{str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)},
    **{
        name: StorageKind(name, dtype)
        for kind, dtype in _STORAGES.items()
        for name in (f"torch.{kind}Storage", f"torch.cuda.{kind}Storage")
    },
    "torch.storage.UntypedStorage": StorageKind("torch.storage.UntypedStorage", torch.uint8),
}


def register_stand_in(name: str, make: Callable | None) -> None:
    """Let pickles in checkpoints name something more.

    Args:
        name: the name, with its module.
        make: gets the arguments that the file chose, and checks them; it returns a plain value, or
            a :class:`~swin_backbone.checkpoints.safe_pickle.Pending` one that awaits its state.
            ``None`` for a name that cannot be called.
    """
    STAND_INS[name] = StandIn(name, make)
