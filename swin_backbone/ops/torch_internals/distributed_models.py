"""What torch's ``DistributedDataParallel`` does not tell."""

from __future__ import annotations

from torch.nn.parallel import DistributedDataParallel


def has_communication_hook(wrapper: DistributedDataParallel) -> bool:
    """Whether ``register_comm_hook`` was called; no, where torch keeps that in another way."""
    return bool(getattr(wrapper, "_comm_hooks", ()))
