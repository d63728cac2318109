"""A plugin of pytest that writes down which kernels of the package its tests never started.

Their names go to the file that the environment variable ``SWIN_KERNELS_LEFT`` names, one a line.
"""

import importlib
import os
import pkgutil
from pathlib import Path

import triton

STARTED = set()


def all_kernels():
    """By name, what is started from the host: other functions of the kernels' files begin with an
    underscore."""
    from swin_backbone.ops.triton import kernels

    modules = [
        importlib.import_module(f"{kernels.__name__}.{module.name}")
        for module in pkgutil.iter_modules(kernels.__path__)
    ]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, triton.runtime.KernelInterface) and not name.startswith("_")
    }


def pytest_configure():
    from swin_backbone.ops.triton.launch import Launch

    plain = Launch.__call__

    def counted(self, *tensors):
        STARTED.add(self.kernel.fn.__name__)
        return plain(self, *tensors)

    Launch.__call__ = counted


def pytest_sessionfinish():
    left = sorted(all_kernels().keys() - STARTED)
    Path(os.environ["SWIN_KERNELS_LEFT"]).write_text("\n".join(left))
