"""The kernels as operators of torch: launch, autograd, shapes without data.

They need Triton, which takes its time and may not be there: each module is imported when it is
first asked for, as an attribute of this package.
"""

from importlib import import_module
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    module = f"{__name__}.{name}"
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
