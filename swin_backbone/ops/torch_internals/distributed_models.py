"""What ``DistributedDataParallel`` does not tell, and how ``DataParallel`` copies modules."""

from __future__ import annotations

from types import MethodType

from torch import nn
from torch.nn.parallel import DistributedDataParallel


def has_communication_hook(wrapper: DistributedDataParallel) -> bool:
    """Whether ``register_comm_hook`` was called; no, where torch keeps that in another way."""
    return bool(getattr(wrapper, "_comm_hooks", ()))


#: By this method of a module ``DataParallel`` makes a copy of it for a GPU; where torch has none,
#: nobody calls it.
REPLICATE = "_replicate_for_data_parallel"


def replica_with_own_methods(module: nn.Module) -> nn.Module:
    """The copy of its class, in which methods that the module holds are bound to the copy; else
    they would compute with the parameters of the first GPU."""
    replica = getattr(type(module), REPLICATE)(module)
    for name, method in list(replica.__dict__.items()):
        if isinstance(method, MethodType) and method.__self__ is module:
            replica.__dict__[name] = MethodType(method.__func__, replica)
    return replica


replica_with_own_methods.__name__ = REPLICATE  # by which it is pickled
