"""Parameters that PyTorch's ``fully_shard`` gathers for each call, in other memory each time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops.torch_internals.tensor_views import copy_all


def gathers_as_one(model: nn.Module) -> bool:
    """Whether ``fully_shard`` gathers all parameters of a module together when it is called."""
    kind = getattr(getattr(torch.distributed, "fsdp", None), "FSDPModule", None)  # torch >= 2.6
    if kind is None or not isinstance(model, kind):
        return False
    return not any(isinstance(part, kind) for part in model.modules() if part is not model)


class ParameterCopies:
    """Copies of a model's parameters, where recorded passes read them.

    Args:
        model: gathered.
    """

    def __init__(self, model: nn.Module):
        self._own = list(model.parameters())
        self._copies = [parameter.detach().clone() for parameter in self._own]
        self._of = dict(zip(map(id, self._own), self._copies, strict=True))

    def of(self, parameter: nn.Parameter) -> Tensor:
        return self._of[id(parameter)]

    def refresh(self) -> None:
        """Copy what is gathered now."""
        copy_all(self._copies, [parameter.detach() for parameter in self._own])

    def bytes_held(self) -> int:
        return sum(copy.nbytes for copy in self._copies)
