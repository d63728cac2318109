"""Memory that does not suffice, and memory that is not needed any more, on any device."""

from __future__ import annotations

import ctypes
import sys

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice; of the CPU's, only the message does."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    message = str(error)
    return "can't allocate memory" in message or "not enough memory" in message


def give_back_memory() -> None:
    """Give back to the system what is free: cached memory of GPUs, and what the C library keeps."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)
