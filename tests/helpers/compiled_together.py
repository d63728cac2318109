"""Kernels compiled ahead in several processes, whose passes wait for each other in many ways."""

from functools import partial
from types import SimpleNamespace
from unittest import mock

import torch
import torch.distributed as dist
from mmengine.model import BaseModel, MMDistributedDataParallel, MMFullyShardedDataParallel
from mmengine.optim import OptimWrapper
from torch import nn

from swin_backbone.model.sharding import shard
from swin_backbone.openmmlab import compile_ahead_hook


class Averaged(BaseModel):
    """Divides a loss by an average over processes, as detectors do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4))

    def forward(self, inputs, data_samples=None, mode="loss"):
        found = self.layers(inputs).square()
        count = torch.full((5,), float(found.numel()))
        dist.all_reduce(count)
        return {"loss": found.sum() / count[0]} if mode == "loss" else [found]


def sharded(model):
    shard(model, "cpu")
    return model


WRAPPERS = {
    "ddp": MMDistributedDataParallel,
    "fsdp": partial(
        MMFullyShardedDataParallel, use_orig_params=True, device_id=torch.device("cpu")
    ),
    "fsdp2": sharded,
}


def compiled_ahead(rank, wrapper):
    """How far a step after the hook is from one without; infinite unless the first process, and
    then the other, would have compiled, each after the whole pass."""
    order = []

    def compile_kernels(model, run, threads, wait):
        run()
        order.append("ran")
        if wait is not None:
            wait()
            order.append("waited")
        order.append("compiled")
        return SimpleNamespace(kernels=0, seconds=0.0)

    batch = {"inputs": torch.randn(3, 6, generator=torch.Generator().manual_seed(rank))}
    model = WRAPPERS[wrapper](Averaged())
    runner = SimpleNamespace(
        model=model, optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    )
    hook = compile_ahead_hook.CompileAheadHook()
    with (
        mock.patch.object(compile_ahead_hook, "compile_kernels", compile_kernels),
        mock.patch.object(compile_ahead_hook, "get_local_rank", return_value=rank),
        mock.patch.object(torch.cuda, "is_available", return_value=True),
        mock.patch.object(compile_ahead_hook, "print_log"),
    ):
        hook.before_train_iter(runner, 0, batch)
    in_turn = ["ran", "compiled"] if rank == 0 else ["ran", "waited", "compiled"]
    runner.optim_wrapper.zero_grad()
    found = model.train_step(dict(batch), runner.optim_wrapper)["loss"]
    expected = Averaged()(**batch)["loss"]
    return abs(found - expected.detach()).item() if order == in_turn else float("inf")
