"""Memory: that does not suffice, that is not needed any more, that a step takes."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn


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


def peak_on_gpu(model: nn.Module, images: Tensor, step: Callable[[], object]) -> int:
    """Bytes that PyTorch's allocator held at most in one step.

    What other implementations keep on the card is taken off; weights, buffers and images of this
    one are part of it.
    """
    model.zero_grad(set_to_none=True)
    own = sum(_bytes(tensor) for tensor in (*model.parameters(), *model.buffers(), images))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before + own
    model.zero_grad(set_to_none=True)
    return peak


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
