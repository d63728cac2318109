"""What stands between stages as kernels, against its references: on a GPU, or in an interpreter."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers.errors import assert_small, relative_error
from helpers.patch_cases import (
    differentiate,
    draw,
    draw_embedding,
    embed,
    embed_by_kernel,
    merge_by_kernel,
    merge_plainly,
)
from helpers.triton_kernels import DEVICE, let_kernels_run  # skips first where no kernel can run

from swin_backbone import SwinBackbone
from swin_backbone.ops import (
    clear_padding,
    cut_patches,
    dispatch,
    project,
    project_patches,
)
from swin_backbone.ops import norm as norms
from swin_backbone.ops.triton import launch
from swin_backbone.ops.triton import patch_embed_op as fused_embedding
from swin_backbone.ops.triton.norm_op import layer_norm, norm_beside
from swin_backbone.ops.triton.patch_embed_op import patch_embed
from swin_backbone.ops.triton.patch_merging_op import copy_by_neighbour, merge_reduce


def draw_valid_sizes(masked):
    """For two images; of the second one, much of the map is padding."""
    return torch.tensor([[9, 9], [3, 1]], dtype=torch.int32, device=DEVICE) if masked else None


@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 1)])
def test_merging_agrees_with_its_reference(size, masked, by_column):
    """1e-5 in float32: sums over up to 96 inputs and 12 tokens, rounded to 1e-7 each."""
    valid = draw_valid_sizes(masked)
    tensors = [torch.randn(2, *size, 24, device=DEVICE), *draw(24, 40)]
    cotangent = torch.randn(2, -(-size[0] // 2), -(-size[1] // 2), 40, device=DEVICE)
    run, reference = (
        partial(f, valid_sizes=valid, by_column=by_column) for f in (merge_by_kernel, merge_plainly)
    )
    actual = differentiate(run, tensors, torch.float32, cotangent)
    exact = differentiate(reference, tensors, torch.float64, cotangent)
    for a, b in zip(actual, exact, strict=True):
        assert a.shape == b.shape
        assert relative_error(a, b) <= 1e-5


def test_merging_stores_nothing_but_its_input():
    x, *parameters = torch.randn(1, 4, 4, 16, device=DEVICE), *draw(16, 32)
    tensors = [t.requires_grad_() for t in (x, *parameters)]
    low = copy_by_neighbour(parameters[-1], torch.float32)
    stored = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (stored.append(t), t)[1], lambda t: t):
        merge_reduce(*tensors, low, None, 1e-5, False)
    assert {t.data_ptr() for t in stored} == {t.data_ptr() for t in (*tensors, low)}


def test_merging_compiles_as_one_operator():
    tensors = [t.requires_grad_() for t in (torch.randn(2, 5, 4, 16, device=DEVICE), *draw(16, 32))]
    low = copy_by_neighbour(tensors[-1], torch.float32)
    for valid in (None, draw_valid_sizes(True)):
        torch.library.opcheck(merge_reduce.operator, (*tensors, low, valid, 1e-5, False))
    compiled = torch.compile(merge_by_kernel, fullgraph=True, dynamic=True, backend="aot_eager")
    cotangent = torch.randn(2, 3, 2, 32, device=DEVICE)
    pairs = zip(
        differentiate(compiled, tensors, torch.float32, cotangent),
        differentiate(merge_by_kernel, tensors, torch.float32, cotangent),
        strict=True,
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("size", [(5, 7), (1, 6), (1, 1)])
def test_norm_reads_gradients_as_they_lie(size, channels_first, masked):
    """A head's gradient of a map (B, C, H, W) may lie channels first; the norm copies neither."""
    x = torch.randn(2, *size, 24, device=DEVICE, requires_grad=True)
    parameters = [torch.rand(24, device=DEVICE, requires_grad=True) for _ in range(2)]
    cotangent = torch.randn(2, 24, *size, device=DEVICE)
    layout = torch.contiguous_format if channels_first else torch.channels_last
    cotangent = cotangent.contiguous(memory_format=layout).permute(0, 2, 3, 1)
    tensors, valid = [x, *parameters], draw_valid_sizes(masked)

    def exact(x, weight, bias):
        return clear_padding(F.layer_norm(x, (24,), weight, bias, 1e-5), valid)

    def kernel(x, weight, bias):
        return layer_norm(x, weight, bias, 1e-5, False, torch.float32, valid)

    actual = differentiate(kernel, tensors, torch.float32, cotangent)
    expected = differentiate(exact, tensors, torch.float64, cotangent)
    # float32, sums over 70 tokens
    assert_small(map(relative_error, actual, expected), 1e-6)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("used", ["both", "norm", "map"])
def test_gradients_meet_in_the_norm(used, masked):
    """The norm is zero in padding; the map, and its gradient, are not."""
    valid = draw_valid_sizes(masked)
    tensors = [torch.randn(2, 3, 5, 32, device=DEVICE), *torch.rand(2, 32, device=DEVICE)]
    factors = torch.randn(2, 2, 3, 5, 32, device=DEVICE)
    factors[0] *= used != "map"
    factors[1] *= used != "norm"

    def gradients(normed_and_map, dtype):
        leaves = [t.to(dtype).requires_grad_() for t in tensors]
        outs = normed_and_map(*leaves)
        kept = [used != "map", used != "norm"]
        loss = sum((o * f).sum() for o, f, k in zip(outs, factors, kept, strict=True) if k)
        return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)

    def exactly(x, weight, bias):
        return clear_padding(F.layer_norm(x, (32,), weight, bias, 1e-5), valid), x

    actual = gradients(lambda *t: norm_beside(*t, 1e-5, torch.float32, valid), torch.float32)
    exact = gradients(exactly, torch.float64)
    for a, b in zip(actual, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)  # float32


@pytest.mark.parametrize("option", [None, "mask_padding", "packed"])
@pytest.mark.parametrize("out_indices", [(0, 1), (1,)])
def test_backbone_on_these_kernels(out_indices, option, monkeypatch):
    """The dispatch in the backbone, without the kernels of the blocks: maps and all gradients."""
    sizes = None if option is None else torch.tensor([[21, 13], [10, 6]])
    mode = {} if option is None else {option: True}
    options = {"embed_dims": 16, "depths": (1, 1), "num_heads": (1, 2), "strides": (4, 2)}
    options |= {"window_size": 2, "out_indices": out_indices, "drop_path_rate": 0.0}
    model = SwinBackbone(**options, **mode).to(DEVICE)
    images = torch.randn(2, 3, 21, 13, device=DEVICE)

    def maps_and_gradients():
        maps = model(images, sizes)
        loss = sum(m.sin().sum() for m in maps)
        return [*maps, *torch.autograd.grad(loss, list(model.parameters()))]

    expected = maps_and_gradients()
    decided = let_kernels_run(monkeypatch)
    for actual, e in zip(maps_and_gradients(), expected, strict=True):
        torch.testing.assert_close(actual, e, rtol=1e-4, atol=1e-4)  # float32, ten layers
    ways = {(d.operation, d.way) for d in decided}
    assert {("layer norm", "triton"), ("patch merging", "triton")} <= ways


def test_a_frozen_stage_is_not_differentiated(monkeypatch):
    """An output norm behind what has no gradient hands the map on as it is."""
    let_kernels_run(monkeypatch)
    x = torch.randn(1, 2, 2, 16, device=DEVICE)
    weight, bias = (torch.rand(16, device=DEVICE, requires_grad=True) for _ in range(2))
    normed, beside = norms.norm_beside(x, weight, bias, 1e-5)
    assert normed.requires_grad
    assert not beside.requires_grad


@pytest.mark.parametrize(
    ("channels", "image_channels", "patch", "size"),
    [
        (24, 3, (4, 4), (9, 14)),
        (96, 3, (4, 4), (8, 8)),
        (16, 1, (2, 3), (3, 7)),
        (32, 4, (4, 4), (1, 1)),
    ],
)
def test_patch_embedding_agrees_with_its_reference(channels, image_channels, patch, size):
    """1e-5 in float32: sums over up to 64 pixels and 24 tokens, rounded to 1e-7 each."""
    image = torch.randn(2, image_channels, *size, device=DEVICE)
    tensors = [image, *draw_embedding(channels, image_channels, patch)]
    tokens = [-(-side // step) for side, step in zip(size, patch, strict=True)]
    cotangent = torch.randn(2, *tokens, channels, device=DEVICE)
    actual = differentiate(embed_by_kernel, tensors, torch.float32, cotangent)
    exact = differentiate(embed, tensors, torch.float64, cotangent)
    for a, b in zip(actual, exact, strict=True):
        assert a.shape == b.shape
        assert relative_error(a, b) <= 1e-5


@pytest.mark.parametrize("programs", [1, 2, 5])  # of the 24 blocks, 5 share 25
def test_patch_embedding_shared_by_few_programs(programs, monkeypatch):
    """Lines of patches longer than a block, and more blocks in a program than there are."""
    monkeypatch.setattr(launch, "PROGRAMS", programs)
    monkeypatch.setattr(fused_embedding, "PROGRAMS_FACTOR", 1)
    launch.forget_launches()
    tensors = [torch.randn(2, 3, 15, 150, device=DEVICE), *draw_embedding(16, 3, (4, 4))]
    cotangent = torch.randn(2, 4, 38, 16, device=DEVICE)
    actual = differentiate(embed_by_kernel, tensors, torch.float32, cotangent)
    exact = differentiate(embed, tensors, torch.float64, cotangent)
    launch.forget_launches()
    assert_small(map(relative_error, actual, exact), 1e-5)


def test_patch_embedding_compiles_as_one_operator():
    image = torch.randn(2, 3, 9, 6, device=DEVICE)
    tensors = [image, *draw_embedding(16, 3, (4, 4))]
    flat = tensors[1].flatten(1)
    leaves = [t.clone().requires_grad_() for t in (flat, *tensors[2:])]
    arguments = (*leaves, flat, 1e-5, [4, 4], torch.float32)
    torch.library.opcheck(patch_embed.operator, (image, *arguments))
    compiled = torch.compile(embed_by_kernel, fullgraph=True, dynamic=True, backend="aot_eager")
    cotangent = torch.randn(2, 3, 2, 16, device=DEVICE)
    pairs = zip(
        differentiate(compiled, tensors, torch.float32, cotangent),
        differentiate(embed_by_kernel, tensors, torch.float32, cotangent),
        strict=True,
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b)


def test_patches_are_what_a_convolution_sees():
    image, weight, bias = torch.randn(2, 3, 9, 6), torch.randn(8, 3, 4, 4), torch.randn(8)
    padded = F.pad(image, (0, 2, 0, 3))
    expected = F.conv2d(padded, weight, bias, stride=4).permute(0, 2, 3, 1)
    patches = cut_patches(image, (4, 4))
    assert patches.is_contiguous()
    torch.testing.assert_close(project(patches, weight, bias), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(project_patches(image, weight, bias), expected)


@pytest.mark.parametrize(
    ("channels", "patch", "dtype", "reason"),
    [
        (96, (4, 4), torch.float32, None),
        (256, (4, 4), torch.float32, "at most 32768 bytes on this card, got 65536"),
        (256, (4, 4), torch.float16, None),
        (96, (16, 16), torch.float16, "at most 32768 bytes"),
    ],
)
def test_why_an_image_is_not_embedded_by_a_kernel(channels, patch, dtype, reason, monkeypatch):
    decided = let_kernels_run(monkeypatch)
    tensors = torch.zeros(1, 3, 4, 4), torch.zeros(channels, 3, *patch)
    way = dispatch.patch_embedding(*(t.to(dtype) for t in tensors))
    assert way == ("triton" if reason is None else "torch")
    assert reason is None or reason in decided[0].refused[0][1]


def test_images_and_weights_of_two_dtypes_stay_torchs_error(monkeypatch):
    let_kernels_run(monkeypatch)
    tensors = draw_embedding(16, 3, (4, 4))
    with pytest.raises(RuntimeError):
        embed(torch.zeros(1, 3, 4, 4, device=DEVICE).half(), *tensors)


def test_dispatch_is_traced_in_one_graph(monkeypatch):
    """From the module's function to the operator, without a graph break."""
    let_kernels_run(monkeypatch)
    tensors = [torch.randn(1, 3, 8, 8, device=DEVICE), *draw_embedding(16, 3, (4, 4))]
    parameters = draw(16, 32)

    def run(*tensors):
        return merge_plainly(embed(*tensors), *parameters)

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tensors), run(*tensors))


def test_patch_embedding_stores_nothing_but_the_image():
    image, (weight, *others) = torch.randn(1, 3, 8, 8, device=DEVICE), draw_embedding(16, 3, (4, 4))
    parameters = [t.requires_grad_() for t in (weight.flatten(1), *others)]
    low = parameters[0].detach().clone()
    stored = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (stored.append(t), t)[1], lambda t: t):
        patch_embed(image, *parameters, low, 1e-5, [4, 4], torch.float32)
    assert {t.data_ptr() for t in stored} == {t.data_ptr() for t in (image, *parameters, low)}
