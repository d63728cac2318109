"""Encoders of other libraries in DDP, FSDP and fully_shard, accelerated before and after; run by
torchrun in two processes, writes JSON.

python -m torch.distributed.run --nproc_per_node=2 wrapped_encoders.py OUT
"""

import copy
import functools
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import lambda_auto_wrap_policy
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.found_by_all import write_and_leave
from helpers.peers import PEERS, make_theirs
from swin_backbone import accelerate
from swin_backbone.model.sharding import own_part

ENCODERS = [
    ("transformers", "v1"),
    ("transformers", "v2"),
    ("timm", "v1"),
    ("timm", "v2"),
    ("torchvision", "v1"),
    ("torchvision", "v2"),
    ("mmseg", "v1"),
]
WRAPPERS = ["ddp", "fsdp", "fully_shard"]
ORDERS = ["before", "after"]
SIZE = (32, 32)


class Means(nn.Module):
    """An encoder, and a mean over its maps that no norm makes trivial."""

    def __init__(self, name, encoder):
        super().__init__()
        self.run, self.encoder = PEERS[name].maps, encoder

    def forward(self, images):
        loss = 0.0
        for index, features in enumerate(self.run(self.encoder, images)):
            weights = torch.linspace(-1, 1, features.numel(), dtype=features.dtype)
            loss = loss + (index + 1) * (features * weights.view_as(features)).sum()
        return loss


def block_names(model):
    """What accelerates replaces as blocks, in a model that is not wrapped."""
    report = accelerate(model)
    names = {
        name
        for row in report.rows
        if row.rewrite == "swin_blocks" and "windows" in row.what
        for name in row.modules
    }
    report.revert()
    return names


def wrap(model, wrapper, names):
    """The model in its wrapper; of sharding, each block is a unit."""
    blocks = {module for name, module in model.named_modules() if name in names}
    if wrapper == "ddp":
        return DistributedDataParallel(model, find_unused_parameters=True)  # timm's last norm
    if wrapper == "fsdp":
        policy = functools.partial(lambda_auto_wrap_policy, lambda_fn=blocks.__contains__)
        return FullyShardedDataParallel(
            model, auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu")
        )
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in blocks:
        torch.distributed.fsdp.fully_shard(block, mesh=mesh)
    return torch.distributed.fsdp.fully_shard(model, mesh=mesh)


def train(model, rank):
    """Losses of three steps, and this process's parameters after them."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for step in range(3):
        generator = torch.Generator().manual_seed(2 * step + rank)
        images = torch.randn(2, 3, *SIZE, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        loss = model(images)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [own_part(parameter).detach().clone() for parameter in model.parameters()]


def difference(ours, theirs):
    """Relative, of losses; the largest, of weights."""
    losses = max(abs(a - b) / abs(b) for a, b in zip(ours[0], theirs[0], strict=True))
    pairs = [(a, b) for a, b in zip(ours[1], theirs[1], strict=True) if b.numel()]
    return losses, max(float((a - b).abs().max()) for a, b in pairs)


def compare(name, version, rank):
    torch.manual_seed(0)
    model = Means(name, make_theirs(name, version, image_size=SIZE)).double()
    for module in model.modules():  # drop path
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    names, found = block_names(model), {}
    for wrapper in WRAPPERS:
        untouched = train(wrap(copy.deepcopy(model), wrapper, names), rank)
        for order in ORDERS:
            ours = copy.deepcopy(model)
            reports = [accelerate(ours)] if order == "before" else []
            ours = wrap(ours, wrapper, names)
            reports = reports or [accelerate(ours)]
            rows = [row for row in reports[0].rows if row.rewrite == "swin_blocks"]
            losses, weights = difference(train(ours, rank), untouched)
            found[f"{wrapper}, {order}"] = {
                "blocks": len(names),
                "replaced": sum("windows" in row.what and len(row.modules) for row in rows),
                "reasons": sorted({row.reason for row in rows if row.reason}),
                "losses": losses,
                "weights": weights,
            }
    return found


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found = {f"{n}, {v}": compare(n, v, rank) for n, v in ENCODERS}
    write_and_leave(sys.argv[1], found)


if __name__ == "__main__":
    main()
