"""One module's method, in whose place graphs run."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType

from torch import nn

from ..ops.torch_internals.module_contents import name_in_pickles


class ReplacedMethod:
    """What one module does in the place of a method, until that is put back. A copy of the module
    has the method that was there before.

    Args:
        module: the module; its class and all other modules keep the method.
        name: of the method.
        run: takes its arguments, without the module.

    Attributes:
        name, run: as given.
        function: the method that was there before, bound.
    """

    def __init__(self, module: nn.Module, name: str, run: Callable):
        self.name, self.run, self.function = name, run, getattr(module, name)
        self._module, self._had = module, module.__dict__.get(name)
        module.__dict__[name] = MethodType(self._method(run), module)

    def _method(self, run: Callable) -> Callable:
        def method(module: nn.Module, *args, **kwargs):
            if module is self._module:
                return run(*args, **kwargs)
            had = getattr(self._had, "__func__", None)
            return (had or getattr(type(module), self.name))(module, *args, **kwargs)

        method.__name__ = name_in_pickles(self._module, self.name)
        method.replaced = self
        return method

    def revert(self) -> None:
        """Put the method back, unless another has taken the place meanwhile."""
        own = self._module.__dict__
        if getattr(own.get(self.name), "replaced", None) is self:
            del own[self.name]
            if self._had is not None:
                own[self.name] = self._had


def is_replaced(module: nn.Module, name: str) -> bool:
    """Whether graphs run in the place of a method."""
    return hasattr(module.__dict__.get(name), "replaced")


def run_instead(model: nn.Module) -> list[Callable]:
    """What runs in the places of methods of a model's modules."""
    methods = [method for module in model.modules() for method in module.__dict__.values()]
    return [method.replaced.run for method in methods if hasattr(method, "replaced")]
