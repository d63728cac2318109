"""Norms whose batch is spread over two processes, against one process with all of it; run by
torchrun, writes JSON.

python -m torch.distributed.run --nproc_per_node=2 synchronized_processes.py OUT SEED

Without a GPU kernels run in Triton's interpreter, where torch's own ``SyncBatchNorm`` does not. One
GPU is shared by both processes, which talk through gloo; on two, through NCCL, nothing of ours may
wait for the GPU.
"""

import copy
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.errors import relative_error
from helpers.found_by_all import write_and_leave
from helpers.triton_kernels import DEVICE
from swin_backbone import accelerate
from swin_backbone.ops import triton

#: Images of each process, and rows and columns; one pixel each, and processes without any.
SHAPES = {
    "several": ((3, 2), (12, 9)),
    "a pixel each": ((1, 1), (1, 1)),
    "none in the first": ((0, 2), (5, 7)),
    "none in the second": ((2, 0), (5, 7)),
}


def by_one_step(x, conv, norm):
    low = conv.weight.detach()
    group = dist.group.WORLD
    return triton.convolution_norm_op.convolution_norm(x, low, conv, norm, True, group)


def by_two_steps(x, conv, norm):
    return triton.synchronized_norm_op.synchronized_norm(conv(x), norm, dist.group.WORLD).relu()


def by_module(x, conv, norm):
    model = nn.Sequential(conv, norm, nn.ReLU())
    report = accelerate(model)
    assert "synchronized_norms" in {row.rewrite for row in report.replaced}
    return model(x)


def by_torch(x, conv, norm):
    return norm(conv(x)).relu()


def by_both(x, conv, norm):
    """Each process in a way of its own."""
    return (by_module if dist.get_rank() == 0 else by_torch)(x, conv, norm)


WAYS = {"one step": by_one_step, "two steps": by_two_steps, "module": by_module}
if DEVICE == "cuda":
    WAYS |= {"torch's own": by_torch, "one each": by_both}


#: What may wait.
WAITING = ("torch's own", "one each")
BACKEND = "nccl" if torch.cuda.device_count() > 1 else "gloo"


def layers():
    conv = nn.Conv2d(6, 70, 3, padding=1, bias=False)
    norm = nn.SyncBatchNorm(70, eps=1e-3, momentum=0.3)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    return conv.to(DEVICE), norm.to(DEVICE)


def train(way, x, conv, norm, grad):
    """Result, gradients for the map and the parameters, running statistics, number of batches."""
    x = x.detach().requires_grad_()
    parameters = [conv.weight, norm.weight, norm.bias]
    out = way(x, conv, norm)
    # Of a process without pixels torch's own class has no gradients, where they are zeros.
    grad_x, *grads = torch.autograd.grad(
        out, [x, *parameters], grad, allow_unused=True, materialize_grads=True
    )
    return out.detach(), grad_x, grads, [norm.running_mean, norm.running_var], norm


def errors(way, shape):
    """Of this process, each relative to float64."""
    counts, size = SHAPES[shape]
    rank, begin = dist.get_rank(), sum(counts[: dist.get_rank()])
    conv, norm = layers()
    x, grad = (torch.randn(sum(counts), c, *size, device=DEVICE) for c in (6, 70))
    own = slice(begin, begin + counts[rank])
    alone = nn.BatchNorm2d(70, eps=norm.eps, momentum=norm.momentum)
    alone.load_state_dict(norm.state_dict())
    exact = copy.deepcopy(conv).double(), alone.to(DEVICE).double()
    right = train(by_torch, x.double(), *exact, grad.double())
    inputs = x[own].to(memory_format=torch.channels_last), conv, norm, grad[own]
    watched = BACKEND == "nccl" and way not in WAITING
    if watched:
        torch.cuda.set_sync_debug_mode("error")
    found = train(WAYS[way], *inputs)
    if watched:
        torch.cuda.set_sync_debug_mode("default")
    grads = [one.contiguous() for one in found[2]]  # those of no images may lie otherwise
    for one in grads:  # each process has its part of them
        dist.all_reduce(one)
    assert norm.num_batches_tracked == alone.num_batches_tracked == 1
    pairs = [*zip(grads + found[3], right[2] + right[3], strict=True)]
    if counts[rank]:
        pairs += [(found[0], right[0][own]), (found[1], right[1][own])]
    return [float(relative_error(*pair)) for pair in pairs]


def main():
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # else convolutions keep 11 bits, in all ways
    if BACKEND == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(BACKEND)
    torch.manual_seed(int(sys.argv[2]))
    found = {f"{way}, {shape}": errors(way, shape) for way in WAYS for shape in SHAPES}
    write_and_leave(sys.argv[1], found)


if __name__ == "__main__":
    main()
