"""Operations of detectors at the sizes of models: attention to points, boxes, regions."""

import pytest
import torch
from helpers.errors import assert_as_good, relative_error
from helpers.points import PointCase, draw, with_gradients
from helpers.served_ops import random_boxes

from swin_backbone import ops

torchvision_ops = pytest.importorskip("torchvision.ops")

PYRAMID = ((100, 168), (50, 84), (25, 42), (13, 21))
POINTS = {
    "dino encoder": PointCase(1, sum(h * w for h, w in PYRAMID), 8, 32, 4, PYRAMID),
    "dino decoder": PointCase(2, 900, 8, 32, 4, PYRAMID),
    "mask2former": PointCase(2, 5376, 8, 32, 4, ((64, 64), (32, 32), (16, 16))),
    "wide heads": PointCase(1, 300, 3, 200, 5, ((40, 30), (20, 15))),
}


def of(impl):
    def function(*arguments):
        return ops.multi_scale_deformable_attention(*arguments, impl=impl)

    return function


@pytest.fixture(params=[False, True], ids=["atomic", "sorted"])
def deterministic(request):
    torch.use_deterministic_algorithms(request.param, warn_only=True)
    yield request.param
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", POINTS.values(), ids=POINTS)
def test_attention_to_points(case, dtype, deterministic):
    """As near to float64 as PyTorch's own sampling of the same numbers."""
    value, shapes, locations, weights = draw(case, dtype, "cuda", spread=0.05)
    shape = (case.batch, case.queries, case.heads * case.channels)
    grad = torch.randn(shape, dtype=dtype, device="cuda")
    tensors = (value, shapes, locations, weights)
    exact = with_gradients(
        of("torch"), value.double(), shapes, locations.double(), weights.double(), grad.double()
    )
    ours, again = (with_gradients(of("triton"), *tensors, grad) for _ in range(2))
    plain = with_gradients(of("torch"), *tensors, grad)
    errors = [[relative_error(*pair) for pair in zip(r, exact, strict=True)] for r in (ours, plain)]
    assert_as_good(*errors, dtype)
    if deterministic:
        assert all(map(torch.equal, ours, again))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("count", [1000, 8700, 20000])
def test_suppression(count, whole, threshold):
    """torchvision's boxes, also of whole pixels and of scores that tie."""
    boxes, scores = random_boxes(count, 300, torch.float32).cuda(), torch.rand(count).cuda()
    if whole:
        boxes, scores = boxes.round(), (20 * scores).round() / 20
    found = ops.non_maximum_suppression(boxes, scores, threshold, impl="triton")
    assert torch.equal(found, torchvision_ops.nms(boxes, scores, threshold))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [7, 14])
def test_regions(size, dtype):
    """Regions of four levels, against torchvision's in float64."""
    torch.manual_seed(0)
    scales = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
    maps = [torch.randn(2, 256, round(400 * s), round(672 * s), device="cuda") for s in scales]
    maps = [x.to(dtype).contiguous(memory_format=torch.channels_last) for x in maps]
    image = torch.randint(2, (300, 1)).float()
    rois = torch.cat([image, random_boxes(300, 350, torch.float32)], 1).cuda()
    levels = torch.arange(300, device="cuda") % 4
    grad = torch.randn(300, 256, size, size, device="cuda").to(dtype)

    def stock(maps):
        out = maps[0].new_zeros(grad.shape)
        for level, (x, scale) in enumerate(zip(maps, scales, strict=True)):
            place = (levels == level).nonzero()[:, 0]
            pooled = torchvision_ops.roi_align(x, rois[place].to(x), size, scale, 0, True)
            out = out.index_put((place,), pooled)
        return out

    def ours(maps):
        return ops.roi_align(maps, rois, levels, scales, size, impl="triton")

    results = []
    for function, own in ((ours, maps), (stock, [x.double() for x in maps])):
        leaves = [x.detach().requires_grad_() for x in own]
        out = function(leaves)
        results.append([out.detach(), *torch.autograd.grad(out, leaves, grad.to(out.dtype))])
    bound = 1e-5 if dtype == torch.float32 else 3e-3
    assert all(relative_error(*pair) < bound for pair in zip(*results, strict=True))
