"""Memory that does not suffice, on any device."""

from __future__ import annotations

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice; of the CPU's, only the message does."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    message = str(error)
    return "can't allocate memory" in message or "not enough memory" in message
