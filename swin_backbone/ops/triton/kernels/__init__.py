"""Triton kernels. They run on GPUs, and in Triton's interpreter on the CPU to be tested."""

from __future__ import annotations

import importlib
import pkgutil

import triton


def all_kernels() -> dict[str, triton.runtime.KernelInterface]:
    """By name, what is started from the host; names of other functions begin with an underscore."""
    modules = [
        importlib.import_module(f"{__name__}.{module.name}")
        for module in pkgutil.iter_modules(__path__)
    ]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, triton.runtime.KernelInterface) and not name.startswith("_")
    }
