"""A plugin of pytest: a run fails unless its tests start every kernel of the package.

It has no say where tests were picked by hand, as with another ``-k``.
"""

import importlib
import pkgutil

import pytest
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


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    left = sorted(all_kernels().keys() - STARTED)
    print(f"\nstarted {len(STARTED)} kernels; never started: {', '.join(left) or 'none'}")
    if left and session.exitstatus == 0:
        session.exitstatus = 1
