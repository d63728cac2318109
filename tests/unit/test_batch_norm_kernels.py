"""Convolution, batch norm and ReLU as one step, against torch's layers in float64."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from helpers.errors import assert_as_good, draws_for, pooled_errors, relative_error
from helpers.triton_kernels import DEVICE  # skips first where no kernel can run
from torch import nn

from swin_backbone.ops import class_scores, triton

#: Channels of the result, and images, rows, columns: less than a block, and more rows than one
#: program takes.
SIZES = [(8, (2, 5, 7)), (150, (2, 3, 5)), (24, (4, 1, 1)), (3, (1, 30, 41))]
LOW = pytest.param(
    torch.bfloat16, marks=pytest.mark.gpu
)  # the interpreter rounds in a way of its own


@pytest.fixture(autouse=True)
def poisoned():
    """Fresh memory is filled with NaN, so that what a kernel leaves out shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def exact_convolutions(monkeypatch):
    """In float32, not in tf32: the norm is what is compared."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def layers(channels, kernel_size, mean=0.0, **options):
    """A convolution of 6 channels, and a norm that has seen batches."""
    padding = kernel_size // 2
    conv = nn.Conv2d(6, channels, kernel_size, padding=padding, bias=False, **options)
    norm = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.3)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.normal_()
        norm.running_var.uniform_(0.5, 2.0)
        conv.weight += mean
    return conv.to(DEVICE), norm.to(DEVICE)


def draw(shape, mean=0.0):
    batch, height, width = shape
    x = torch.randn(batch, 6, height, width, device=DEVICE) + mean
    return x.to(memory_format=torch.channels_last)


def plain(x, conv, norm, relu):
    out = norm(conv(x))
    return out.relu() if relu else out


def train(function, x, conv, norm, grad):
    """The result, gradients and running statistics."""
    x = x.detach().requires_grad_()
    out = function(x, conv, norm)
    grads = torch.autograd.grad(out, [x, conv.weight, norm.weight, norm.bias], grad.to(out.dtype))
    return [out.detach(), *grads, norm.running_mean, norm.running_var]


def by_kernels(relu, dtype):
    def function(x, conv, norm):
        low = conv.weight.detach().to(dtype)
        return triton.convolution_norm_op.convolution_norm(x.to(dtype), low, conv, norm, relu)

    return function


def check_training(conv, norm, shape, relu, dtype, whole=lambda grad: grad):
    # Few channels are few numbers; in float32 the bound is a fixed one.
    draws = 1 if dtype == torch.float32 else draws_for(norm.num_features)
    found = [train_all(conv, norm, draw(shape), relu, dtype, whole) for _ in range(draws)]
    right, theirs, ours = zip(*found, strict=True)
    assert_as_good(pooled_errors(ours, right), pooled_errors(theirs, right), dtype)


def train_all(conv, norm, x, relu, dtype, whole):
    """Exactly, by torch's layers and by the kernels: result, gradients and statistics of each."""
    exact, stock, fast = (copy.deepcopy((conv, norm)) for _ in range(3))
    grad = whole(torch.randn(conv(x).shape, device=DEVICE).to(dtype))
    function = lambda x, conv, norm: plain(x, conv, norm, relu)  # noqa: E731
    right = train(function, x.double(), *(layer.double() for layer in exact), grad.double())
    with torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32):
        theirs = train(function, x, *stock, grad)
    ours = train(by_kernels(relu, dtype), x, *fast, grad)
    assert fast[1].num_batches_tracked == exact[1].num_batches_tracked == 1
    return right, theirs, ours


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, LOW])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_training(size, kernel_size, relu, dtype, small, monkeypatch):
    """By one kernel, as small maps, and by several."""
    monkeypatch.setattr(triton.batch_norm_op, "SMALL", 2**20 if small else 0)
    channels, shape = size
    if dtype != torch.float32:
        shape = (4, 16 * shape[1], shape[2])  # enough numbers to compare errors
    check_training(*layers(channels, kernel_size), shape, relu, dtype)


def test_a_mean_that_is_large_beside_the_spread():
    torch.manual_seed(0)
    conv, norm = layers(8, 1)
    x = draw((2, 40, 30), mean=100.0)
    out = triton.convolution_norm_op.convolution_norm(x, conv.weight.detach(), conv, norm, False)
    right = copy.deepcopy(norm).double()
    right.reset_running_stats()
    wanted = right(copy.deepcopy(conv).double()(x.double()))
    assert relative_error(out, wanted) < 1e-4  # the convolution's own rounding, times mean/spread


def test_a_gradient_that_is_a_part_of_the_channels():
    """What a concatenation gives back, unlike its contiguous copy, lies with gaps."""
    conv, norm = layers(8, 3)

    def part(grad):
        batch, channels, height, width = grad.shape
        whole = grad.new_full((batch, height, width, 3 * channels), float("nan"))
        whole[..., channels : 2 * channels] = grad.permute(0, 2, 3, 1)
        return whole.permute(0, 3, 1, 2)[:, channels : 2 * channels]

    check_training(conv, norm, (2, 5, 6), True, torch.float32, part)


def test_groups_strides_and_dilation():
    conv, norm = layers(12, 3, groups=2, stride=2, dilation=2)
    check_training(conv, norm, (2, 9, 8), True, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, LOW])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_prediction(kernel_size, relu, dtype):
    conv, norm = layers(24, kernel_size)
    x = draw((2, 17, 9))
    norm.eval()
    with torch.no_grad():
        ours = triton.convolution_norm_op.folded_convolution(x.to(dtype), conv, norm, relu)
        with torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32):
            theirs = plain(x, conv, norm, relu)
        right = plain(x.double(), conv.double(), norm.double(), relu)
    assert_as_good([relative_error(ours, right)], [relative_error(theirs, right)], dtype)
    assert norm.num_batches_tracked == 0


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("last", [True, False])
def test_scores_lie_class_by_class(bias, last):
    conv = nn.Conv2d(6, 5, 1, bias=bias).double()
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    x = (x.to(memory_format=torch.channels_last) if last else x).requires_grad_()
    parameters = [x, *conv.parameters()]
    grad = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    scores = class_scores(x, conv.weight, conv.bias, torch.float64)
    assert scores.is_contiguous()
    found = [scores, *torch.autograd.grad(scores, parameters, grad)]
    wanted = [conv(x), *torch.autograd.grad(conv(x), parameters, grad)]
    torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        torch.testing.assert_close(class_scores(x, conv.weight, conv.bias, x.dtype), wanted[0])


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 7), (8, 9)], ids=str)
def test_pools(size):
    x = torch.randn(2, 70, 5, 7, device=DEVICE).to(memory_format=torch.channels_last)
    wanted = F.adaptive_avg_pool2d(x, size)
    torch.testing.assert_close(triton.pool_op.pool(x, size), wanted, rtol=1e-5, atol=1e-6)


@pytest.fixture
def alone():
    """A group of this process."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    yield torch.distributed.group.WORLD
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.float32, LOW])
@pytest.mark.parametrize("relu", [True, False])
def test_a_group_of_one_process(relu, dtype, alone, monkeypatch):
    """Of several, see tests/integration/test_synchronized_norms.py."""
    by_group = functools.partial(triton.convolution_norm_op.convolution_norm, group=alone)
    monkeypatch.setattr(triton.convolution_norm_op, "convolution_norm", by_group)
    check_training(*layers(24, 3), (4, 16, 9), relu, dtype)


@pytest.mark.parametrize("processes", [1, 2, 16, 40])
def test_statistics_of_many_processes(processes):
    """Some have no pixels, some one, some many; in float32, sums of as many numbers."""
    counts = torch.randint(2, 50, (processes,))
    counts[1::3] = 0
    counts[3::5] = 1
    values = [3 * torch.randn(count, 70, dtype=torch.float64) + 2 for count in counts]
    gathered = torch.zeros(processes, 141)
    for row, own in zip(gathered, values, strict=True):
        if len(own):
            inverse = (own.var(0, correction=0) + 1e-3).rsqrt()
            row.copy_(torch.cat([own.mean(0), inverse, torch.tensor([float(len(own))])]))
    running = torch.rand(70, device=DEVICE), torch.rand(70, device=DEVICE)
    batches, whole = torch.zeros((), dtype=torch.long, device=DEVICE), torch.cat(values)
    expected = [
        0.7 * one.double() + 0.3 * now.to(DEVICE)
        for one, now in zip(running, (whole.mean(0), whole.var(0)), strict=True)
    ]
    found = triton.synchronized_norm_op.joined_statistics(
        gathered.to(DEVICE), (*running, batches), 1e-3, 0.3
    )
    mean, inverse, count = found.double().cpu().split([70, 70, 1])
    torch.testing.assert_close(mean, whole.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        inverse, (whole.var(0, correction=0) + 1e-3).rsqrt(), rtol=1e-5, atol=1e-5
    )
    assert (count, batches) == (sum(counts), 1)
    for one, right in zip(running, expected, strict=True):
        torch.testing.assert_close(one.double(), right, rtol=1e-5, atol=1e-5)
