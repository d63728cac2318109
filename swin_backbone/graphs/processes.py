"""What the processes of a distributed run do together: average gradients, and agree."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class Averaging:
    """The average of gradients over processes.

    Args:
        group: the processes; ``None`` for all.
        dtype: in which gradients travel; ``None`` for their own.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, dtype: torch.dtype | None = None):
        self.group, self.dtype = group, dtype
        self.size = dist.get_world_size(group)
        self._averages = dist.get_backend(group) == "nccl"

    def start(self, flat: Tensor) -> Callable[[], None]:
        """Begin to average ``flat`` (n,) in place.

        Returns:
            What waits for the average, on a GPU without the host.
        """
        sent = flat if self.dtype is None or self.dtype == flat.dtype else flat.to(self.dtype)
        if not self._averages:
            sent.div_(self.size)
        operation = dist.ReduceOp.AVG if self._averages else dist.ReduceOp.SUM
        work = dist.all_reduce(sent, operation, self.group, async_op=True)

        def finish() -> None:
            work.wait()
            if sent is not flat:
                flat.copy_(sent)

        return finish


class Agreement:
    """What processes agree on, by their hosts.

    Args:
        group: the processes, over a backend that takes tensors on the CPU.
    """

    def __init__(self, group: dist.ProcessGroup):
        self.group = group

    def __call__(self, plan: object) -> bool:
        """Whether each process's ``plan`` has the same ``repr``."""
        number = zlib.crc32(repr(plan).encode())
        both = torch.tensor([number, -number], dtype=torch.int64, device="cpu")
        dist.all_reduce(both, dist.ReduceOp.MAX, self.group)
        return int(both[0]) == -int(both[1])

    def share(self, numbers: Sequence[int]) -> list[int]:
        """The first process's numbers; each has as many."""
        shared = torch.tensor(numbers, dtype=torch.int64, device="cpu")
        dist.broadcast(shared, dist.get_global_rank(self.group, 0), self.group)
        return shared.tolist()
