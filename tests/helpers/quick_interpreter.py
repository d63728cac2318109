"""Triton's interpreter as it is, in half the time.

It reduces with functions that it does not know element by element; here rows are combined in the
same order, all at once, so that every bit is the same. And it makes the same lists for each call of
a function in a kernel; here they are kept.

What is private to the interpreter and used here is listed in :data:`NEEDED`.
"""

from __future__ import annotations

import inspect
from types import ModuleType

import numpy as np

#: What the interpreter of Triton 3.8 has.
NEEDED = ("ReduceOps", "_get_np_dtype", "_patch_builtin", "_patch_attr")


def hurry(interpreter: ModuleType) -> None:
    """Have every launch from now on take less time; where a name is missing, as long as before."""
    if not all(hasattr(interpreter, name) for name in NEEDED):
        return
    if not hasattr(interpreter.ReduceOps, "generic_reduce"):
        return
    _keep_dtypes(interpreter)
    _keep_lists(interpreter)
    interpreter.ReduceOps.generic_reduce = _by_rows(interpreter.ReduceOps.generic_reduce)


def _by_rows(by_element):
    def reduce(self, input):
        arrays = [one.handle.data for one in input]
        if self.axis is None or arrays[0].ndim < 2:
            return by_element(self, input)
        rows = [np.moveaxis(array, self.axis, 0) for array in arrays]
        total = _tensors(self, rows, 0, input)
        for row in range(1, len(rows[0])):
            total = self.combine_fn.fn(*total, *_tensors(self, rows, row, input))
            total = total if isinstance(total, tuple) else (total,)
        found = [one.handle.data for one in total]
        if self.keep_dims:
            found = [np.expand_dims(array, self.axis) for array in found]
        return [self.to_tensor(x, one.dtype) for x, one in zip(found, input, strict=True)]

    reduce.by_element = by_element
    return reduce


def _tensors(reduction, rows, row: int, like) -> tuple:
    return tuple(
        reduction.to_tensor(array[row], one.dtype) for array, one in zip(rows, like, strict=True)
    )


def _keep_dtypes(interpreter: ModuleType) -> None:
    find, language, kept = interpreter._get_np_dtype, interpreter.tl, {}

    def find_once(dtype):
        scalar = dtype.element_ty if isinstance(dtype, language.block_type) else dtype
        if isinstance(scalar, language.pointer_type):
            return find(scalar)
        if scalar.name not in kept:
            kept[scalar.name] = find(scalar)
        return kept[scalar.name]

    interpreter._get_np_dtype = find_once


def _keep_lists(interpreter: ModuleType) -> None:
    """The builtins of a package do not change, but for being patched and put back."""
    is_builtin = interpreter.tl.core.is_builtin
    kept: dict = {}

    def patch(package, builder, *scope):
        if package not in kept:
            members = inspect.getmembers(package)
            kept[package] = [(name, member) for name, member in members if is_builtin(member)]
        for name, member in kept[package]:
            if getattr(package, name) is member:  # else it is patched already
                interpreter._patch_attr(package, name, member, builder, *scope)

    interpreter._patch_builtin = patch
