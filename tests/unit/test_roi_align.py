"""RoI align of several maps: torchvision's, by the definition and by kernels."""

import pytest
import torch
from helpers.errors import assert_small, relative_error
from helpers.triton_kernels import DEVICE, HAS_GPU  # skips first where no kernel can run

from swin_backbone import ops

torchvision_ops = pytest.importorskip("torchvision.ops")
both = pytest.mark.parametrize("impl", ["reference", "triton"])
SCALES = (0.25, 0.125, 0.0625)


def draw(regions, channels=20, dtype=torch.float64):
    """Maps of two images of 80x72 pixels, and regions of all sizes, some beyond the borders."""
    maps = [torch.randn(2, channels, round(80 * s), round(72 * s), dtype=dtype) for s in SCALES]
    corner = torch.rand(regions, 2, dtype=torch.float64) * 80 - 10
    sides = torch.rand(regions, 2, dtype=torch.float64) ** 2 * 60
    image = torch.randint(2, (regions, 1)).double()
    rois = torch.cat([image, corner, corner + sides], 1)
    levels = torch.arange(regions) % len(SCALES)
    return [x.to(DEVICE) for x in maps], rois.to(DEVICE), levels.to(DEVICE)


def stock(maps, rois, levels, size, sampling_ratio, aligned):
    """torchvision's, map by map."""
    out = maps[0].new_zeros((len(rois), maps[0].shape[1], *size))
    for level, (x, scale) in enumerate(zip(maps, SCALES, strict=True)):
        chosen = (levels == level).nonzero()[:, 0]
        pooled = torchvision_ops.roi_align(
            x, rois[chosen].to(x.dtype), size, scale, sampling_ratio, aligned
        )
        out = out.index_put((chosen,), pooled)
    return out


def with_gradients(function, maps, grad):
    leaves = [x.detach().clone().requires_grad_() for x in maps]
    out = function(leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.to(out.dtype))]


CASES = [((7, 7), 0, True), ((9, 9), 2, True), ((3, 5), 0, False), ((1, 1), 1, False)]


@both
@pytest.mark.parametrize(("size", "sampling_ratio", "aligned"), CASES)
def test_as_torchvision(impl, size, sampling_ratio, aligned):
    """float64 by the definition; kernels, float32, to 1e-5."""
    maps, rois, levels = draw(12)
    grad = torch.randn(12, 20, *size, dtype=torch.float64, device=DEVICE)
    exact = with_gradients(
        lambda maps: stock(maps, rois, levels, size, sampling_ratio, aligned), maps, grad
    )
    own = maps if impl == "reference" else [x.float() for x in maps]

    def function(maps):
        return ops.roi_align(
            maps, rois, levels, SCALES, size,
            sampling_ratio=sampling_ratio, aligned=aligned, impl=impl,
        )  # fmt: skip

    found = with_gradients(function, own, grad)
    # Kernels take boxes as float32: a sample moves by 1e-6 pixels.
    limit = 1e-9 if impl == "reference" else 1e-5
    assert_small([relative_error(a, b) for a, b in zip(found, exact, strict=True)], limit)
    assert all(map(torch.equal, found, with_gradients(function, own, grad)))


@pytest.mark.parametrize("dtype", [torch.float16, *([torch.bfloat16] if HAS_GPU else [])])
def test_16_bits(dtype):
    """The result is rounded once: half a step. So is the gradient. Parts of pixels are two numbers
    of 16 bits, which leave 1e-5 of a sum of some terms."""
    maps, rois, levels = draw(10, channels=33)
    maps = [x.to(dtype) for x in maps]
    grad = torch.randn(10, 33, 7, 7, device=DEVICE).to(dtype)

    def by(impl):
        return lambda maps: ops.roi_align(maps, rois, levels, SCALES, 7, impl=impl)

    found = with_gradients(by("triton"), maps, grad)
    exact = with_gradients(by("reference"), [x.double() for x in maps], grad)
    assert {x.dtype for x in found} == {dtype}
    for own, right in zip(found, exact, strict=True):
        half = 0.51 * torch.finfo(dtype).eps
        torch.testing.assert_close(own.double(), right, rtol=half, atol=3e-5)


@pytest.mark.parametrize("impl", ["reference", *(["triton"] if HAS_GPU else [])])
def test_gradients_of_regions_that_overlap_are_added_in_float32(impl):
    """And rounded to 16 bits once: half of the last of eight bits, 2e-3, of each."""
    maps, rois, levels = draw(400)
    options = {"size": (7, 7), "sampling_ratio": 2}
    grad = torch.randn(400, 20, 7, 7, device=DEVICE).bfloat16()

    def gradients(dtype, impl):
        def run(leaves):
            return ops.roi_align(leaves, rois.float(), levels, SCALES, impl=impl, **options)

        rounded = [x.bfloat16().to(dtype) for x in maps]
        return with_gradients(run, rounded, grad)[1:]

    exact = gradients(torch.float64, "reference")
    for found, right in zip(gradients(torch.bfloat16, impl), exact, strict=True):
        assert relative_error(found, right) < 2.5e-3


@both
def test_of_nothing(impl):
    """No regions, a map without any, and regions that are none."""
    maps, rois, levels = draw(4)
    maps = [x.float() for x in maps]
    grad = torch.randn(0, 20, 2, 2, device=DEVICE)
    _, *grads = with_gradients(
        lambda m: ops.roi_align(m, rois[:0], levels[:0], SCALES, 2, impl=impl), maps, grad
    )
    assert [g.shape for g in grads] == [x.shape for x in maps]
    assert not any(g.any() for g in grads)
    empty = rois.clone()
    empty[:, 3:] = empty[:, 1:3] - 5
    assert not ops.roi_align(maps, empty, levels, SCALES, 2, impl=impl).any()


def test_errors():
    maps, rois, levels = draw(3)
    for arguments, kind, words in [
        (([], rois, levels, ()), ValueError, "maps"),
        ((maps, rois, levels, SCALES[:2]), ValueError, "scales"),
        ((maps, rois[:, :4], levels, SCALES), ValueError, "rois"),
        ((maps, rois, levels[:2], SCALES), ValueError, "levels"),
        ((maps, rois, levels.float(), SCALES), TypeError, "levels"),
        (([maps[0], maps[1].float(), maps[2]], rois, levels, SCALES), TypeError, "maps"),
        ((maps, rois, levels, (1, 2, float("nan"))), ValueError, "scales"),
    ]:
        with pytest.raises(kind, match=words):
            ops.roi_align(*arguments, 7)
    with pytest.raises(ValueError, match="size"):
        ops.roi_align(maps, rois, levels, SCALES, 0)
    with pytest.raises(ValueError, match="float64"):
        ops.roi_align(maps, rois, levels, SCALES, 7, impl="triton")
