"""Kernels in Triton's interpreter read and write only the tensors that they are given.

The interpreter reads and writes whatever address it is told, and what lies beyond a tensor's end is
often a number like any other. Once :func:`check_accesses` was called, each tensor of a launch has
addresses of its own, far from those of the others, until it is read or written: so it is known of
which argument an address is, and that it lies within.

Programs of one launch run at the same time on a card, and so do the threads of one. An error is
therefore, too, that two programs write one element without an atomic, that one reads what another
one wrote, and that one store writes different values to one element.

What is private to Triton's interpreter and used here is listed in :data:`NEEDED`.
"""

from __future__ import annotations

import copy
import inspect
from typing import NamedTuple

import numpy as np
import torch

#: What the interpreter of Triton 3.2 to 3.8 has: names, and what has these by name.
NEEDED = {
    "GridExecutor": ("__call__",),
    "InterpreterBuilder": (
        "create_atomic_cas",
        "create_atomic_rmw",
        "create_masked_load",
        "create_masked_store",
        "set_grid_idx",
    ),
    "TensorHandle": ("get_element_ty",),
    "_implicit_cvt": (),
}
#: An argument has so many bits of addresses, from minus a half of them on.
BITS = 44

#: The launch that runs, or ``None``.
started: Started | None = None


class Argument(NamedTuple):
    """A tensor that a kernel was given.

    Attributes:
        name: of the kernel's argument.
        address: of its first element.
        size: bytes up to the end of its last element.
        storage: address of the memory that it lies in.
        storage_size: bytes of that.
    """

    name: str
    address: int
    size: int
    storage: int
    storage_size: int


class Started:
    """A launch, and which of its programs wrote which element.

    Args:
        kernel: its name.
        names: of the arguments that are tensors, in order.
    """

    def __init__(self, kernel: str, names: list[str]):
        self.kernel = kernel
        self.names = names
        self.arguments: list[Argument] = []
        self.program = (0, 0, 0)
        self.number = 0
        self.writers: dict[int, np.ndarray] = {}

    def add(self, tensor: torch.Tensor) -> int:
        """The address by which the kernel knows the next argument."""
        last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        size = (last + 1) * tensor.element_size() if tensor.numel() else 0
        storage = tensor.untyped_storage()
        memory = tensor.data_ptr(), size, storage.data_ptr(), storage.nbytes()
        self.arguments.append(Argument(self.names[len(self.arguments)], *memory))
        return len(self.arguments) << BITS

    def begin(self, program: tuple[int, ...]) -> None:
        self.program = program
        self.number += 1

    def fail(self, what: str) -> None:
        raise IndexError(f"program {self.program} of {self.kernel} {what}")

    def real(self, pointers, mask: np.ndarray, verb: str, is_atomic: bool = False):
        """The interpreter's pointers as they are to be taken, where ``mask`` says so.

        Args:
            pointers: handle of the addresses that the kernel has.
            mask: of their shape; what others point to does not matter.
            verb: ``'reads'`` or ``'writes'``.
            is_atomic: whether no other program can come between.

        Raises:
            IndexError: if one is not in a tensor, or is another program's.
        """
        known = pointers.data.astype(np.int64)
        width = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        index = (known + (1 << (BITS - 1))) >> BITS
        for number in np.unique(index[mask]):
            if not 1 <= number <= len(self.arguments):
                self.fail(f"{verb} at an address that is none of its arguments'")
            argument = self.arguments[number - 1]
            chosen = mask & (index == number)
            places = known[chosen] - (int(number) << BITS)
            outside = places[(places < 0) | (places > argument.size - width)]
            if outside.size:
                which = f"element {outside[0] // width} of {argument.name}"
                self.fail(f"{verb} {which}, which has {argument.size // width}")
            if not is_atomic:
                self.claim(argument, places // width, width, verb)
            known[chosen] = places + argument.address
        real = copy.copy(pointers)
        real.data = known.astype(np.uint64)
        return real

    def claim(self, argument: Argument, elements: np.ndarray, width: int, verb: str) -> None:
        """Write down which elements this program writes; fail for those of another one."""
        writers = self.writers.get(argument.storage)
        if writers is None:
            if verb == "reads":
                return
            writers = np.zeros(argument.storage_size // width, np.int32)
            self.writers[argument.storage] = writers
        places = elements + (argument.address - argument.storage) // width
        others = elements[(writers[places] != 0) & (writers[places] != self.number)]
        if others.size:
            self.fail(f"{verb} element {others[0]} of {argument.name}, another program's")
        if verb == "writes":
            writers[places] = self.number

    def compare(self, found: np.ndarray, written: np.ndarray) -> None:
        """Fail if what a store has left is not what it wrote: two of its values met."""
        if found.tobytes() != written.astype(found.dtype).tobytes():
            self.fail("writes different values to one element")


def check_accesses() -> str | None:
    """Check every launch in Triton's interpreter from now on; says why not, if that cannot be."""
    import triton
    from triton.runtime import interpreter

    for name, parts in NEEDED.items():
        whole = getattr(interpreter, name, None)
        lacks = [f"{name}.{part}" for part in parts if not hasattr(whole, part)]
        if whole is None or lacks:
            missing = name if whole is None else lacks[0]
            return f"with Triton {triton.__version__}, whose interpreter has no {missing}"
    _wrap_launches(interpreter)
    _wrap_accesses(interpreter.InterpreterBuilder)
    return None


def _wrap_launches(interpreter) -> None:
    plain_call, plain_convert = interpreter.GridExecutor.__call__, interpreter._implicit_cvt
    plain_program = interpreter.InterpreterBuilder.set_grid_idx

    def call(self, *arguments, **options):
        global started
        known = inspect.getfullargspec(self.fn).args
        own = {name: value for name, value in options.items() if name in known}
        bound = inspect.getcallargs(self.fn, *arguments, **own)
        names = [name for name, value in bound.items() if isinstance(value, torch.Tensor)]
        started = Started(self.fn.__name__, names)
        try:
            return plain_call(self, *arguments, **options)
        finally:
            started = None

    def convert(value):
        converted = plain_convert(value)
        if started is not None and isinstance(value, torch.Tensor):
            converted.handle.data = np.array([started.add(value)], dtype=np.uint64)
        return converted

    def begin(self, *program):
        started.begin(program)
        return plain_program(self, *program)

    interpreter.GridExecutor.__call__ = call
    interpreter._implicit_cvt = convert
    interpreter.InterpreterBuilder.set_grid_idx = begin


def _wrap_accesses(builder) -> None:
    load, store = builder.create_masked_load, builder.create_masked_store
    swap, change = builder.create_atomic_cas, builder.create_atomic_rmw

    def checked_load(self, pointers, mask, *others):
        real = started.real(pointers, mask.data.astype(bool), "reads")
        return load(self, real, mask, *others)

    def checked_store(self, pointers, value, mask, *others):
        counts = mask.data.astype(bool)
        real = started.real(pointers, counts, "writes")
        result = store(self, real, value, mask, *others)
        found = load(self, real, mask, None, None, None, False)
        started.compare(found.data[counts], value.data[counts])
        return result

    def checked_swap(self, pointer, *others):
        everywhere = np.ones(pointer.data.shape, bool)
        return swap(self, started.real(pointer, everywhere, "writes", True), *others)

    def checked_change(self, operation, pointers, value, mask, *others):
        real = started.real(pointers, mask.data.astype(bool), "writes", True)
        return change(self, operation, real, value, mask, *others)

    builder.create_masked_load, builder.create_masked_store = checked_load, checked_store
    builder.create_atomic_cas, builder.create_atomic_rmw = checked_swap, checked_change
