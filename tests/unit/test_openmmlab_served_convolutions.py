"""Deformable and masked convolutions, and CARAFE, against their definitions."""

from itertools import product

import pytest
import torch
from helpers.served_ops import (
    assert_as_compiled,
    bilinear_with_zeros,
    on_devices,
    pixel,
    serve,
    with_ops,
)
from mmcv import ops

MODULES = ("deform_conv", "modulated_deform_conv", "carafe", "masked_conv")
KERNEL = (3, 2)
#: stride, padding, dilation, groups, groups with offsets of their own
GEOMETRIES = [
    (1, 1, 1, 1, 1),
    ((2, 1), (1, 0), 1, 2, 1),
    (1, (2, 1), (1, 2), 1, 2),
    ((1, 2), 2, 2, 2, 4),
]
geometries = pytest.mark.parametrize("geometry", GEOMETRIES)


@pytest.fixture
def served(monkeypatch):
    serve(monkeypatch, *MODULES)


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def deformable_inputs(geometry, dtype=torch.float64):
    """Input, offset, mask, weight, bias."""
    stride, padding, dilation, groups, deform_groups = geometry
    sizes = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, s, p, d, k in zip(
            (5, 6), pair(stride), pair(padding), pair(dilation), KERNEL, strict=True
        )
    ]
    places = deform_groups * KERNEL[0] * KERNEL[1]
    return [
        torch.randn(2, 4, 5, 6, dtype=dtype),
        2 * torch.randn(2, 2 * places, *sizes, dtype=dtype),  # some point out of the map
        torch.rand(2, places, *sizes, dtype=dtype),
        torch.randn(6, 4 // groups, *KERNEL, dtype=dtype),
        torch.randn(6, dtype=dtype),
    ]


def slow_deformable_convolution(x, offset, mask, weight, bias, geometry):
    """Sum over the kernel's places of weight times mask times the input at the moved place."""
    (stride, padding, dilation), (groups, deform_groups) = map(pair, geometry[:3]), geometry[3:]
    output = bias.view(1, -1, 1, 1).repeat(len(x), 1, *mask.shape[2:])
    width = x.shape[1] // deform_groups  # channels that share offsets
    for b, place, row, column in product(*map(range, (len(x), 6, *mask.shape[2:]))):
        i, j = divmod(place, KERNEL[1])
        samples = []
        for group in range(deform_groups):
            index = group * 6 + place
            down, right = offset[b, 2 * index : 2 * index + 2, row, column].tolist()
            y = row * stride[0] - padding[0] + i * dilation[0] + down
            across = column * stride[1] - padding[1] + j * dilation[1] + right
            channels = x[b, group * width : (group + 1) * width]
            samples.append(mask[b, index, row, column] * bilinear_with_zeros(channels, y, across))
        inputs = torch.cat(samples).view(groups, -1, 1)
        kernel = weight[:, :, i, j].view(groups, -1, weight.shape[1])
        output[b, :, row, column] += (kernel @ inputs).flatten()
    return output


@pytest.mark.usefixtures("served")
@on_devices
@geometries
def test_deformable_convolutions(device, geometry):
    x, offset, mask, weight, bias = deformable_inputs(geometry)
    inputs = [value.to(device) for value in (x, offset, mask, weight, bias)]
    found = ops.modulated_deform_conv2d(*inputs, *geometry)
    expected = slow_deformable_convolution(x, offset, mask, weight, bias, geometry)
    torch.testing.assert_close(found.cpu(), expected)
    found = ops.modulated_deform_conv2d(*inputs[:4], None, *geometry)
    torch.testing.assert_close(found.cpu(), expected - bias[:, None, None])
    found = ops.deform_conv2d(inputs[0], inputs[1], inputs[3], *geometry)
    expected = slow_deformable_convolution(
        x, offset, torch.ones_like(mask), weight, torch.zeros_like(bias), geometry
    )
    torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.usefixtures("served")
@geometries
def test_gradients_of_deformable_convolutions(geometry):
    inputs = [value.requires_grad_() for value in deformable_inputs(geometry)]
    # Along random directions; each of a thousand numbers would take a minute.
    check = {"fast_mode": True}
    modulated = ops.modulated_deform_conv2d
    assert torch.autograd.gradcheck(lambda *x: modulated(*x, *geometry), inputs, **check)
    assert torch.autograd.gradcheck(lambda *x: modulated(*x, None, *geometry), inputs[:4], **check)
    plain = [inputs[0], inputs[1], inputs[3]]
    assert torch.autograd.gradcheck(lambda *x: ops.deform_conv2d(*x, *geometry), plain, **check)


@pytest.mark.usefixtures("served")
def test_offsets_of_a_larger_map_are_read_as_they_lie_in_memory():
    """As DyHead gives them, with what mmcv makes of them."""
    geometry = GEOMETRIES[3]
    x, offset, mask, weight, bias = deformable_inputs(geometry)
    sizes = mask.shape[2:]
    larger = [
        torch.randn(2, values.shape[1], 2 * sizes[0] + 1, 2 * sizes[1], dtype=torch.float64)
        for values in (offset, mask)
    ]
    read = [
        values.flatten(1)[:, : small[0].numel()].view_as(small)
        for values, small in zip(larger, (offset, mask), strict=True)
    ]
    expected = slow_deformable_convolution(x, *read, weight, bias, geometry)
    inputs = [x, *larger, weight, bias]
    torch.testing.assert_close(ops.modulated_deform_conv2d(*inputs, *geometry), expected)
    # The same numbers in another order of memory: the order of the shape counts.
    inputs[1] = inputs[1].contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ops.modulated_deform_conv2d(*inputs, *geometry), expected)
    inputs = [value.requires_grad_() for value in inputs]
    assert torch.autograd.gradcheck(
        lambda *x: ops.modulated_deform_conv2d(*x, *geometry), inputs, fast_mode=True
    )
    for index, name in [(1, "offset"), (2, "mask")]:
        short = list(inputs)
        short[index] = short[index][:, :, :1, :1]
        with pytest.raises(ValueError, match=name):
            ops.modulated_deform_conv2d(*short, *geometry)


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("needed", range(3))
def test_only_the_gradient_that_is_needed(needed):
    """Each is computed by itself: frozen weights, or a backbone that gets none."""
    x, offset, _, weight, _ = deformable_inputs(GEOMETRIES[1])
    inputs = [x, offset, weight]
    both = [value.clone().requires_grad_() for value in inputs]
    ops.deform_conv2d(*both, *GEOMETRIES[1]).square().sum().backward()
    inputs[needed].requires_grad_()
    ops.deform_conv2d(*inputs, *GEOMETRIES[1]).square().sum().backward()
    torch.testing.assert_close(inputs[needed].grad, both[needed].grad)


def slow_carafe(features, masks, kernel_size, groups, scale):
    batch, channels, height, width = features.shape
    width_of_group, radius = channels // groups, kernel_size // 2
    output = torch.zeros(batch, channels, height * scale, width * scale, dtype=features.dtype)
    for b, group, row, column in product(*map(range, (batch, groups, *output.shape[2:]))):
        part = slice(group * width_of_group, (group + 1) * width_of_group)
        for i, j in product(range(kernel_size), repeat=2):
            weight = masks[b, group * kernel_size**2 + i * kernel_size + j, row, column]
            y, x = row // scale + i - radius, column // scale + j - radius
            output[b, part, row, column] += weight * pixel(features[b, part], y, x)
    return output


def carafe_inputs(kernel_size, groups, scale, dtype=torch.float64):
    places = groups * kernel_size**2
    masks = torch.randn(2, places, 3 * scale, 4 * scale, dtype=dtype)
    return torch.randn(2, 4, 3, 4, dtype=dtype), masks


@pytest.mark.usefixtures("served")
@on_devices
@pytest.mark.parametrize("options", [(5, 1, 2), (3, 2, 1), (1, 4, 3)])
def test_carafe(device, options):
    features, masks = carafe_inputs(*options)
    expected = slow_carafe(features, masks, *options)
    for carafe in (ops.carafe, ops.carafe_naive):
        found = carafe(features.to(device), masks.to(device), *options)
        torch.testing.assert_close(found.cpu(), expected)
    inputs = [features.requires_grad_(), masks.requires_grad_()]
    assert torch.autograd.gradcheck(lambda *x: ops.carafe(*x, *options), inputs, fast_mode=True)


@pytest.mark.usefixtures("served")
def test_the_upsampler_that_configs_name_trains():
    layer = ops.CARAFEPack(8, scale_factor=2, compressed_channels=4)
    features = torch.rand(2, 8, 3, 5, requires_grad=True)
    output = layer(features)
    assert output.shape == (2, 8, 6, 10)
    output.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in (*layer.parameters(), features))


@pytest.mark.usefixtures("served")
@on_devices
@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), ((1, 3), (0, 1)), (5, 2), (1, 0)])
def test_masked_convolution(device, kernel, padding):
    layer = ops.MaskedConv2d(4, 6, kernel, padding=padding).double().to(device)
    features = torch.randn(1, 4, 7, 9, dtype=torch.float64, device=device)
    mask = torch.randint(2, (1, 7, 9), device=device)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    expected = torch.nn.functional.conv2d(features, weight, bias, padding=padding) * mask
    if kernel == (1, 3):  # mmcv's layer takes one padding for both axes only in a call
        found = ops.masked_conv2d(features, mask, weight, bias, padding)
    else:
        found = layer(features, mask)
    torch.testing.assert_close(found, expected)
    assert ops.masked_conv2d(features, 0 * mask, weight, bias, padding).abs().sum() == 0


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    geometry, options = GEOMETRIES[1], (3, 2, 2)
    x, offset, mask, weight, bias = (v.to(dtype) for v in deformable_inputs(geometry))
    for op, inputs, rest in [
        (ops.modulated_deform_conv2d, (x, offset, mask, weight, bias), geometry),
        (ops.deform_conv2d, (x, offset, weight), geometry),
        (ops.carafe, [value.to(dtype) for value in carafe_inputs(*options)], options),
    ]:
        pairs = [
            [value.detach().to(kind).requires_grad_() for value in inputs]
            for kind in (dtype, torch.float32)
        ]
        for values in pairs:
            output = op(*values, *rest)
            output.backward(torch.ones_like(output))
            values.append(output)
        for half, exact in zip(*pairs, strict=True):
            torch.testing.assert_close(half, exact.to(dtype))
            if half.is_leaf:
                torch.testing.assert_close(half.grad, exact.grad.to(dtype))


@pytest.mark.usefixtures("served")
def test_offsets_in_half_precision_under_autocast():
    """The convolution that predicts offsets then gives 16 bits, while the input may have 32."""
    x, offset, mask, weight, bias = (v.float() for v in deformable_inputs(GEOMETRIES[0]))
    found = ops.modulated_deform_conv2d(
        x, offset.bfloat16(), mask.bfloat16(), weight, bias, *GEOMETRIES[0]
    )
    assert found.dtype == torch.bfloat16
    rounded = [value.bfloat16().float() for value in (x, offset, mask, weight, bias)]
    expected = ops.modulated_deform_conv2d(*rounded, *GEOMETRIES[0])
    torch.testing.assert_close(found, expected.bfloat16())


@with_ops
@on_devices
@geometries
def test_served_ops_equal_the_compiled_ones(device, geometry, monkeypatch):
    inputs = [v.to(device) for v in deformable_inputs(geometry, torch.float32)]
    features, masks = (v.to(device) for v in carafe_inputs(5, 2, 2, torch.float32))
    chosen = torch.randint(2, (1, 5, 6), device=device)

    def run():
        x, offset, mask, weight, bias = all_inputs = [v.clone().requires_grad_() for v in inputs]
        outputs = [
            ops.modulated_deform_conv2d(x, offset, mask, weight, bias, *geometry),
            ops.deform_conv2d(x, offset, weight, *geometry),
        ]
        if device == "cuda":  # mmcv compiles these two for GPUs only
            all_inputs += [features.clone().requires_grad_(), masks.clone().requires_grad_()]
            outputs.append(ops.carafe(*all_inputs[-2:], 5, 2, 2))
        gradients = torch.autograd.grad(sum(y.square().sum() for y in outputs), all_inputs)
        if device == "cuda":
            square = torch.rand(6, 4, 3, 3, device=device)
            outputs.append(ops.masked_conv2d(inputs[0][:1], chosen, square, inputs[4], 1))
        return [*outputs, *gradients]

    assert_as_compiled(monkeypatch, MODULES, run)
