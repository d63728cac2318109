"""Distributed training with CudaGraphHook and without, step by step; run by torchrun, writes JSON.

python -m torch.distributed.run --nproc_per_node=2 graphed_processes.py OUT [CASE ...]

Without GPUs, processes talk through gloo and what is recorded runs again.
"""

import contextlib
import copy
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from mmengine.optim import AmpOptimWrapper, OptimWrapper

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.found_by_all import write_and_leave
from helpers.graph_recorders import StandInGraphHook
from helpers.segmentors import batch, segmentor
from swin_backbone import accelerate
from swin_backbone.openmmlab.cpu_distributed import CPUDistributedDataParallel
from swin_backbone.openmmlab.cuda_graph_hook import CudaGraphHook
from swin_backbone.openmmlab.gradient_compression import CompressGradientsHook

# isort: split
from mmengine.model import MMDistributedDataParallel

CUDA = torch.cuda.is_available()
#: What differs from plain training: of the model, of the optimizer wrapper, of the batches.
CASES = {
    "plain": {},
    "accumulated": {"accumulate": 2},
    "clipped": {"clip": 0.1},
    "compressed": {"compressed": True},
    "several shapes": {"sizes": [(64, 64), (64, 96)]},
    "different shapes": {"sizes": [(64, 64), (64, 96)], "of_ranks": True},
    "different shapes, one graph": {
        "sizes": [(64, 64), (64, 96)],
        "of_ranks": True,
        "most_shapes": 1,
    },
    # Gradients of a step without a graph are there before a replay's, and the other way round.
    "a shape too many, accumulated": {
        "sizes": [(64, 64), (64, 96), (64, 96), (64, 64)],
        "most_shapes": 1,
        "accumulate": 2,
    },
    "synchronized": {"norm": "SyncBN"},
}
STEPS = 8


class AsItIs(torch.nn.Module):
    """A data preprocessor of batches that are ready."""

    def forward(self, data, training):
        return data


def wrap(model, device):
    options = {"broadcast_buffers": False, "gradient_as_bucket_view": True}
    if CUDA:
        return MMDistributedDataParallel(model, device_ids=[device], **options)
    return CPUDistributedDataParallel(model, **options)


def train(model, device, case, by_graphs):
    """Losses, whether steps were replayed, and the model."""
    model = wrap(model, device)
    runner, hooks = SimpleNamespace(model=model), []
    if case.get("compressed"):
        hooks.append(CompressGradientsHook("bfloat16" if CUDA else "float16"))
    if by_graphs:
        kind = CudaGraphHook if CUDA else StandInGraphHook
        hooks.append(kind(most_shapes=case.get("most_shapes", 4), bucket_mb=0.01))
    for hook in hooks:
        hook.before_train(runner)
    graphs = hooks[-1].graphs if by_graphs else None
    if by_graphs and graphs is None:
        raise RuntimeError("no graphs")
    clip = {"max_norm": case["clip"]} if "clip" in case else None
    options = {"accumulative_counts": case.get("accumulate", 1), "clip_grad": clip}
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    if CUDA:
        options |= {"dtype": "bfloat16", "loss_scale": {"enabled": False}}
    wrapper = (AmpOptimWrapper if CUDA else OptimWrapper)(optimizer=optimizer, **options)
    wrapper.initialize_count_status(model, 0, STEPS)
    logs = []
    for step in range(STEPS):
        sizes = case.get("sizes", [(64, 64)])
        place = step + dist.get_rank() if case.get("of_ranks") and step > 3 else step
        size = sizes[place % len(sizes)]
        seed = 100 * step + dist.get_rank()
        images, samples = batch(size, seed=seed, dtype=torch.float32)
        data = {"inputs": images.to(device), "data_samples": [s.to(device) for s in samples]}
        torch.manual_seed(seed)
        losses = model.train_step(data, wrapper)
        logs.append([float(value.detach()) for name, value in losses.items() if "loss" in name])
    reason, shapes = (graphs.reason, graphs.shapes) if by_graphs else (None, 0)
    for hook in hooks:
        hook.after_train(runner)
    return torch.tensor(logs), model.module, reason, shapes


def difference(model, other):
    """The largest of the weights' differences, and of the buffers'."""
    return [
        max(float((a.double() - b.double()).abs().max()) for a, b in zip(*pair, strict=True))
        for pair in (
            (model.parameters(), other.parameters()),
            (model.buffers(), other.buffers()),
        )
    ]


def compare(case, device):
    torch.manual_seed(0)
    model = segmentor("UPer", backbone="SwinBackbone", dropout_ratio=0.1)
    if case.get("norm") == "SyncBN":
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.data_preprocessor = AsItIs()
    model = model.to(device).train()
    for module in model.modules():
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.3
    if CUDA:
        accelerate(model)
    stock, again = copy.deepcopy(model), copy.deepcopy(model)
    expected, one, _, _ = train(stock, device, case, by_graphs=False)
    repeated, other, _, _ = train(again, device, case, by_graphs=False)
    found, two, reason, shapes = train(model, device, case, by_graphs=True)
    spread = [torch.zeros_like(p) for p in two.parameters()]
    for own, parameter in zip(spread, two.parameters(), strict=True):
        own.copy_(parameter.detach())
        dist.broadcast(own, 0)
    return {
        "losses": float((found - expected).abs().max()),
        "losses of two runs without": float((repeated - expected).abs().max()),
        "weights, buffers": difference(one, two),
        "weights, buffers of two runs without": difference(one, other),
        "between processes": max(
            float((a - b).abs().max()) for a, b in zip(spread, two.parameters(), strict=True)
        ),
        "reason": reason,
        "shapes": shapes,
    }


def main():
    torch.set_num_threads(1)
    local = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local) if CUDA else torch.device("cpu")
    if CUDA:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if CUDA else "gloo")
    found = {}
    for name in sys.argv[2:] or CASES:
        with contextlib.redirect_stdout(sys.stderr):
            found[name] = compare(CASES[name], device)
    write_and_leave(sys.argv[1], found)


if __name__ == "__main__":
    main()
