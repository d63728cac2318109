"""How a file that torchrun starts in several processes ends."""

import json
from pathlib import Path

import torch.distributed as dist


def write_and_leave(path, found):
    """Write what each process found, a list in the order of ranks, as JSON; leave the others."""
    every = [None] * dist.get_world_size()
    dist.all_gather_object(every, found)
    if dist.get_rank() == 0:
        Path(path).write_text(json.dumps(every))
    dist.barrier()
    dist.destroy_process_group()
