"""Deformable convolution by samples and a product is torchvision's."""

import pytest
import torch
from helpers.served_ops import serve
from mmcv import ops
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import deform_conv2d

from swin_backbone.openmmlab.served_ops import deformable_convolution as served
from swin_backbone.ops.deformable_convolution import (
    Geometry,
    deformable_convolution,
    deformable_convolution_gradients,
    runs_as_kernels,
)
from swin_backbone.ops.triton.launch import Launch

#: Kernels run there, or in Triton's interpreter.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
#: Stride, padding, dilation, groups of offsets, kernel.
CASES = {
    "DyHead": ((1, 1), (1, 1), (1, 1), 1, (3, 3)),
    "strided": ((2, 1), (1, 0), (1, 1), 1, (3, 2)),
    "dilated": ((1, 2), (2, 2), (2, 1), 2, (2, 3)),
    "one place": ((1, 1), (0, 0), (1, 1), 4, (1, 1)),
}
cases = pytest.mark.parametrize("case", CASES)


def draw(case, dtype=torch.float64, device="cpu", channels=8, size=(7, 9)):
    """Geometry, and x, weight, offset, mask, bias; some points lie outside of the map."""
    stride, padding, dilation, groups, kernel = CASES[case]
    out = [
        (size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    ]
    places = groups * kernel[0] * kernel[1]
    tensors = (
        torch.randn(2, channels, *size),
        torch.randn(6, channels, *kernel),
        3 * torch.randn(2, 2 * places, *out),
        torch.rand(2, places, *out),
        torch.randn(6),
    )
    tensors = [one.double().to(device, dtype).requires_grad_() for one in tensors]
    return Geometry(stride, padding, dilation, groups), tensors


def by_torchvision(geometry, tensors):
    x, weight, offset, mask, bias = tensors
    options = {name: getattr(geometry, name) for name in ("stride", "padding", "dilation")}
    return deform_conv2d(x, offset, weight, bias, mask=mask, **options)


def with_gradients(geometry, tensors, grad):
    with torch.no_grad():
        out = deformable_convolution(*tensors, geometry)
        grads = deformable_convolution_gradients(grad, *tensors[:4], geometry)
    return out, *grads


@cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_result_and_gradients(case, dtype):
    """Against float64 of the same numbers; errors are a few roundings of the largest number."""
    geometry, tensors = draw(case, dtype, DEVICE)
    doubles = [one.detach().double().requires_grad_() for one in tensors]
    expected = by_torchvision(geometry, doubles)
    grad = torch.randn_like(expected).to(dtype)
    found = with_gradients(geometry, tensors, grad)
    expected = expected.detach(), *torch.autograd.grad(expected, doubles, grad.double())
    several = 8 * torch.finfo(dtype).eps
    for name, one, other in zip(
        ["result", "x", "weight", "offset", "mask", "bias"], found, expected, strict=True
    ):
        assert one.dtype == dtype
        error = (one.double() - other).abs().max() / other.abs().max()
        assert error < several, (name, error.item())


def test_half_a_pixel_of_a_large_map_is_there_in_16_bits():
    """Offsets of 16 bits are added to places of 32."""
    x = torch.arange(600.0, device=DEVICE).remainder(2).view(1, 1, 1, 600)
    x = x.bfloat16()
    weight = torch.ones(1, 1, 1, 1, dtype=torch.bfloat16, device=DEVICE)
    offset = torch.zeros(1, 2, 1, 600, dtype=torch.bfloat16, device=DEVICE)
    offset[:, 1] = 0.5
    mask = torch.ones(1, 1, 1, 600, dtype=torch.bfloat16, device=DEVICE)
    geometry = Geometry((1, 1), (0, 0), (1, 1), 1)
    out = deformable_convolution(x, weight, offset, mask, None, geometry)
    assert torch.equal(out[0, 0, 0, :-1].float(), torch.full((599,), 0.5, device=DEVICE))


def test_any_layout_of_memory():
    """Convolutions give offsets channels last, and gradients come like that: the same bits but for
    what is added up in an order of chance."""
    geometry, tensors = draw("dilated", torch.float32, DEVICE)
    grad = torch.randn_like(by_torchvision(geometry, tensors))
    expected = with_gradients(geometry, tensors, grad)
    *maps, bias = (one.detach() for one in tensors)
    maps = [one.to(memory_format=torch.channels_last) for one in maps]
    found = with_gradients(geometry, [*maps, bias], grad.to(memory_format=torch.channels_last))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_zeros_have_the_slopes_of_torchvision():
    """As offsets begin: every point lies on a pixel, where slopes to its two sides differ. Sums of
    float32 in another order."""
    geometry, tensors = draw("DyHead", torch.float32, DEVICE)
    with torch.no_grad():
        tensors[2].zero_()
    expected = by_torchvision(geometry, tensors)
    grad = torch.randn_like(expected)
    _, _, _, found, *_ = with_gradients(geometry, tensors, grad)
    torch.testing.assert_close(
        found, torch.autograd.grad(expected, tensors[2], grad)[0], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_served_by_kernels_where_there_are_no_groups(monkeypatch, groups, with_mask):
    """mmcv's geometry in the right order. Sums of float32 in another order."""
    serve(monkeypatch, "modulated_deform_conv", "deform_conv")
    monkeypatch.setattr(served, "runs_as_kernels", lambda *arguments: True)
    called = []
    for name in ("deformable_convolution", "deformable_convolution_gradients"):
        ours = getattr(served, name)
        monkeypatch.setattr(
            served, name, lambda *a, ours=ours, name=name: called.append(name) or ours(*a)
        )
    geometry, (x, weight, offset, mask, _) = draw("dilated", torch.float32, DEVICE)
    weight = weight.detach()[:, : x.shape[1] // groups].clone().requires_grad_()
    sizes = (geometry.stride, geometry.padding, geometry.dilation, groups, geometry.offset_groups)
    if with_mask:
        inputs = [x, weight, offset, mask]
        expected = by_torchvision(geometry, [*inputs, None])
        found = ops.modulated_deform_conv2d(x, offset, mask, weight, None, *sizes)
    else:
        inputs = [x, weight, offset]
        expected = by_torchvision(geometry, [*inputs, None, None])
        found = ops.deform_conv2d(x, offset, weight, *sizes)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    grad = torch.randn_like(expected)
    pairs = (torch.autograd.grad(out, inputs, grad) for out in (found, expected))
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert bool(called) == (groups == 1)


class Started(TorchDispatchMode):
    """Counts what a host starts: kernels, and operators that are neither views nor only memory."""

    MEMORY = ("aten::new_empty", "aten::empty_like", "aten::lift_fresh", "aten::_unsafe_view")

    def __init__(self, monkeypatch):
        super().__init__()
        self.count = 0
        monkeypatch.setattr(Launch, "__call__", self.start)

    def start(self, *tensors):
        self.count += 1

    def __torch_dispatch__(self, called, types, args=(), kwargs=None):
        aliases = [one.alias_info for one in called._schema.returns]
        is_view = any(one is not None and not one.is_write for one in aliases)
        self.count += not is_view and called._schema.name not in self.MEMORY
        return called(*args, **(kwargs or {}))


def test_the_host_starts_little(monkeypatch):
    """By mmcv's signatures, as in DyHead: offsets and a mask that are parts of one map. A step has
    78 of these convolutions, and 61 operators each were once a third of its host's time."""
    monkeypatch.setattr(served, "runs_as_kernels", lambda *arguments: True)
    x, weight = torch.randn(2, 16, 8, 12), torch.randn(16, 16, 3, 3)
    both, out, empty = torch.randn(2, 27, 8, 12), torch.empty(2, 16, 8, 12), torch.empty(0)
    offset, mask = both[:, :18], both[:, 18:].sigmoid()
    operands = (x, weight, empty, empty, offset, mask)
    grads = [torch.zeros_like(one) for one in (x, weight, empty, offset, mask)]
    geometry = (3, 3, *[1] * 8, False)
    with Started(monkeypatch) as forward:
        served.modulated_deform_conv_forward(*operands, out, empty, *geometry)
    with Started(monkeypatch) as backward:
        served.modulated_deform_conv_backward(*operands, empty, *grads, out, *geometry)
    assert (forward.count, backward.count) == (7, 15)


def test_what_kernels_take():
    """Not float64, nor nothing, nor anything on a CPU."""
    geometry, (x, weight, offset, *_) = draw("DyHead", torch.float32)
    assert not runs_as_kernels(x, weight, offset, geometry.offset_groups)
    if torch.cuda.is_available():
        x, weight, offset = (one.cuda() for one in (x, weight, offset))
        assert runs_as_kernels(x, weight, offset, 1)
        assert not runs_as_kernels(x.double(), weight.double(), offset.double(), 1)
        assert not runs_as_kernels(x[:0], weight, offset[:0], 1)
