"""Parts of mmdet's detectors, accelerated, against the stock classes."""

import copy
from types import SimpleNamespace

import pytest
import torch
from helpers.waits import waits

import swin_backbone  # lets mmcv.ops import
from swin_backbone import ops
from swin_backbone.acceleration import mmdet_mask_regions, mmdet_mask_targets, polygon_masks

pytest.importorskip("mmdet")
pytest.importorskip("torchvision")
np = pytest.importorskip("numpy")

from mmdet.models.roi_heads import FCNMaskHead, SingleRoIExtractor  # noqa: E402
from mmdet.models.task_modules import AssignResult, MaxIoUAssigner, RandomSampler  # noqa: E402
from mmdet.structures.mask import BitmapMasks, PolygonMasks  # noqa: E402
from mmengine.config import ConfigDict  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402


def random_boxes(count, side):
    corner = torch.rand(count, 2) * side - 5
    return torch.cat([corner, corner + torch.rand(count, 2) * side], 1)


def rewrites(report):
    return {row.rewrite: row.modules for row in report.replaced if row.rewrite != "channels_last"}


@pytest.fixture(autouse=True)
def scope_of_mmdet():
    """Whatever scope earlier tests left."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


@pytest.fixture
def kernels(monkeypatch):
    """Regions are pooled by kernels, on the CPU in Triton's interpreter."""
    pytest.importorskip("helpers.triton_kernels")
    monkeypatch.setattr(ops.dispatch, "roi_align", lambda *arguments: "triton")
    function = ops.roi_align
    monkeypatch.setattr(ops, "roi_align", lambda *a, **k: function(*a, **{**k, "impl": "triton"}))


def extractor(**options):
    layer = {"type": "RoIAlign", "output_size": 3, "sampling_ratio": 0, **options}
    return SingleRoIExtractor(layer, 16, [4, 8], finest_scale=10)


@pytest.mark.parametrize("factor", [None, 1.3])
@pytest.mark.parametrize("options", [{}, {"aligned": False, "sampling_ratio": 1}])
def test_regions(kernels, options, factor):
    """float32, forward and backward, to some roundings."""
    stock = extractor(**options)
    fast = copy.deepcopy(stock)
    report = swin_backbone.accelerate(fast)
    assert rewrites(report) == {"roi_extractors": ("",)}
    rois = torch.cat([torch.randint(2, (9, 1)).float(), random_boxes(9, 60)], 1)
    results = []
    for module in (stock, fast):
        torch.manual_seed(1)
        maps = [torch.randn(2, 16, side, side, requires_grad=True) for side in (20, 10)]
        out = module(maps, rois, factor)
        results.append([out.detach(), *torch.autograd.grad((out**2).sum(), maps)])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    report.revert()
    assert torch.equal(fast(maps, rois, factor), stock(maps, rois, factor))


def test_regions_that_are_left():
    (row,) = swin_backbone.accelerate(extractor(pool_mode="max")).left
    assert "means" in row.reason


def targets_of(head, masks, cfg, boxes):
    results, instances = [], []
    for one, some in zip(masks, boxes, strict=True):
        chosen = torch.arange(len(some)) % len(one)
        results.append(InstanceData(pos_priors=some.clone(), pos_assigned_gt_inds=chosen))
        instances.append(InstanceData(masks=one))
    return head.get_targets(results, instances, ConfigDict(cfg))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("soft", [False, True])
def test_mask_targets(soft, dtype):
    """The same targets, of boxes in their own precision; of an image without boxes none."""
    stock = FCNMaskHead(num_convs=1, in_channels=4, conv_out_channels=4, num_classes=2)
    fast = copy.deepcopy(stock)
    report = swin_backbone.accelerate(fast)
    assert "mask_targets" in rewrites(report)
    masks = [
        BitmapMasks((np.random.rand(n, 40, 50) < 0.5).astype(np.uint8), 40, 50) for n in (3, 2)
    ]
    boxes, cfg = [random_boxes(n, 45).to(dtype) for n in (7, 0)], {"mask_size": (5, 6)}
    cfg["soft_mask_target"] = soft
    found, expected = (targets_of(head, masks, cfg, boxes) for head in (fast, stock))
    assert found.shape == (7, 5, 6)
    assert found.dtype == torch.float32
    # Where an image has no boxes, stock targets are float32 numbers in the dtype of boxes.
    assert torch.equal(found, expected.float())
    assert len(found.unique()) > 2 if soft else set(found.unique().tolist()) == {0.0, 1.0}
    report.revert()
    assert "get_targets" not in fast.__dict__


def polygon(kind, side):
    """x and y in turns: at random, of whole and half pixels, around a point, or a rectangle."""
    count = int(torch.randint(3, 30, ()))
    if kind == "anywhere":  # also beyond the image, and across itself
        points = torch.rand(count, 2) * (side + 40) - 20
    elif kind == "halves":
        points = torch.randint(2 * side, (count, 2)) / 2
        points[1] = points[0]  # an edge of no length
    elif kind == "star":
        angles, radii = (6.3 * torch.rand(count)).sort().values, side / 2 * torch.rand(count)
        points = side / 2 + radii[:, None] * torch.stack([angles.cos(), angles.sin()], 1)
    else:
        x, y = side // 5, side - 7
        points = torch.tensor([[x, x], [y, x], [y, y], [x, y]])
    return points.double().flatten().numpy()


KINDS = ("anywhere", "halves", "star", "rectangle")


def polygons(number, side, dtype="float64"):
    """Masks of objects of up to three polygons."""
    kinds = [[KINDS[i % 4], KINDS[(i // 4) % 4], "star"][: 1 + i % 3] for i in range(number)]
    objects = [[polygon(kind, side).astype(dtype) for kind in some] for some in kinds]
    return PolygonMasks(objects, side, side + 10)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("points", ["float64", "float32"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [28, (5, 9), (14, 1)])
def test_mask_targets_of_polygons(monkeypatch, device, points, dtype, size):
    """The bits that pycocotools draws, of boxes of a part of a pixel, too, and of images without
    boxes or objects; also where not all boxes go together."""
    stock = FCNMaskHead(num_convs=1, in_channels=4, conv_out_channels=4, num_classes=2)
    fast = copy.deepcopy(stock)
    report = swin_backbone.accelerate(fast)
    masks = [polygons(12, 300, points), polygons(5, 60, points), polygons(0, 60), polygons(3, 60)]
    boxes = [random_boxes(200, 300), random_boxes(50, 60), torch.zeros(0, 4), torch.zeros(0, 4)]
    boxes[0][:50] = boxes[0][:50].round()
    boxes[0][50:100, 2:] = boxes[0][50:100, :2] + torch.rand(50, 2) * 3
    boxes, cfg = [some.to(device, dtype) for some in boxes], {"mask_size": size}
    assert_the_same_targets(fast, stock, masks, cfg, boxes)
    monkeypatch.setattr(polygon_masks, "TOGETHER", 5000)
    assert_the_same_targets(fast, stock, masks, cfg, boxes)
    report.revert()
    assert "get_targets" not in fast.__dict__


def assert_the_same_targets(fast, stock, masks, cfg, boxes):
    found, expected = (targets_of(head, masks, cfg, boxes) for head in (fast, stock))
    assert (found.dtype, found.device) == (torch.float32, boxes[0].device)
    assert torch.equal(found, expected.float())
    assert 0 < found.mean() < 1


@pytest.mark.parametrize("kind", ["integers", "two points", "numbers", "bitmaps beside"])
def test_mask_targets_of_other_polygons(kind):
    """Whose points numpy cuts off, or which are lines, are mmdet's; an image with bitmaps may be
    among others."""
    head = FCNMaskHead(num_convs=1, in_channels=4, conv_out_channels=4, num_classes=2)
    masks = [polygons(2, 60), polygons(1, 60)]
    if kind == "integers":
        masks[0].masks[0][0] = masks[0].masks[0][0].astype(np.int64)
    elif kind == "two points":
        masks[0].masks[0].append(np.array([2.0, 3, 20, 30]))
    elif kind == "numbers":
        masks[0].masks[0][0] = masks[0].masks[0][0].astype(np.float16)
    else:
        masks[1] = BitmapMasks((np.random.rand(2, 60, 70) < 0.5).astype(np.uint8), 60, 70)
    boxes, cfg = [random_boxes(20, 60) for _ in masks], {"mask_size": 8}
    expected = targets_of(head, masks, cfg, boxes)
    swin_backbone.accelerate(head)
    assert torch.equal(targets_of(head, masks, cfg, boxes), expected)
    with pytest.raises(ValueError, match="always binary"):  # mmdet's, of shares of pixels
        targets_of(head, masks, {**cfg, "soft_mask_target": True}, boxes)


def test_polygons_go_ahead_and_the_host_does_not_wait(monkeypatch):
    """They are laid out once, while the backbone is computed."""
    head = FCNMaskHead(num_convs=1, in_channels=4, conv_out_channels=4, num_classes=2)
    swin_backbone.accelerate(head)
    laid_out, outlines_of = [], mmdet_mask_targets.outlines_of
    monkeypatch.setattr(
        mmdet_mask_targets, "outlines_of", lambda one: laid_out.append(1) or outlines_of(one)
    )
    masks, cfg = [polygons(4, 60), polygons(2, 60)], {"mask_size": 8}
    samples = [SimpleNamespace(gt_instances=InstanceData(masks=one)) for one in masks]
    boxes = [random_boxes(9, 60) for _ in masks]
    expected = targets_of(head, masks, cfg, boxes)
    laid_out.clear()
    with mmdet_mask_targets.masks_ahead([head], samples, torch.device("cpu")):
        assert torch.equal(targets_of(head, masks, cfg, boxes), expected)
        assert waits(lambda: targets_of(head, masks, cfg, boxes)) == 0
    assert len(laid_out) == 2
    targets_of(head, masks, cfg, boxes)
    assert len(laid_out) == 4  # nobody holds them


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65])
def test_regions_of_masks(monkeypatch, count):
    """The same masks and gradients in float64, whatever is added; few numbers of regions."""
    monkeypatch.setattr(
        mmdet_mask_regions, "empty_regions", lambda x: -len(x) % mmdet_mask_regions.MULTIPLE
    )
    stock = FCNMaskHead(num_convs=1, in_channels=4, conv_out_channels=4, num_classes=2).double()
    fast, seen, results = copy.deepcopy(stock), [], []
    report = swin_backbone.accelerate(fast)
    assert "mask_regions" in rewrites(report)
    fast.convs[0].register_forward_hook(lambda module, inputs, out: seen.append(len(out)))
    for head in (stock, fast):
        torch.manual_seed(0)
        x = torch.randn(count, 4, 5, 5, dtype=torch.float64, requires_grad=True)
        out = head(x)
        assert len(out) == count
        results.append(
            [out.detach(), *torch.autograd.grad((out**2).sum(), [x, *head.parameters()])]
        )
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)
    assert seen == [-(-count // 64) * 64]
    report.revert()
    assert "forward" not in fast.__dict__


def test_regions_of_masks_with_batch_norms_are_left():
    head = FCNMaskHead(
        num_convs=1, in_channels=4, conv_out_channels=4, num_classes=2, norm_cfg={"type": "BN"}
    )
    (row,) = [r for r in swin_backbone.accelerate(head).left if r.rewrite == "mask_regions"]
    assert "statistics of all regions" in row.reason


def drawn(sampler, seed=0):
    torch.manual_seed(seed)
    assigned = torch.cat([torch.zeros(300), torch.ones(60), -torch.ones(40)]).long()
    result = AssignResult(1, assigned, torch.rand(400), torch.zeros(400).long())
    priors = InstanceData(priors=random_boxes(400, 50))
    gt = InstanceData(bboxes=random_boxes(1, 50), labels=torch.zeros(1).long())
    return sampler.sample(result, priors, gt)


class Head(torch.nn.Module):
    """A head of one stage, or of several."""

    def __init__(self, *samplers):
        super().__init__()
        self.bbox_sampler = list(samplers) if len(samplers) > 1 else samplers[0]


@pytest.mark.parametrize("stages", [1, 3])
def test_samplers(stages):
    """On a CPU the same boxes for the same seed; on any device as many, of the same kinds."""
    samplers = [RandomSampler(64, 0.25, add_gt_as_proposals=False) for _ in range(stages)]
    expected = [drawn(sampler) for sampler in samplers]
    head = Head(*samplers)
    report = swin_backbone.accelerate(head)
    assert rewrites(report) == {"samplers": ("",), "sampling": ("",)}
    for sampler, right in zip(samplers, expected, strict=True):
        found = drawn(sampler)
        assert len(found.pos_inds) == 16
        assert torch.equal(found.pos_inds, right.pos_inds)
        assert torch.equal(found.neg_inds, right.neg_inds)
        assert not torch.equal(drawn(sampler, 1).neg_inds, right.neg_inds)
    assert "replaced" in swin_backbone.accelerate(head).left[0].reason
    report.revert()
    assert not any("random_choice" in sampler.__dict__ for sampler in samplers)


@pytest.mark.gpu
def test_samplers_on_a_card():
    sampler = RandomSampler(64, 0.25, add_gt_as_proposals=False)
    swin_backbone.accelerate(Head(sampler))
    gallery = torch.arange(1000, device="cuda") * 3
    counts = torch.zeros(3000, device="cuda")
    for _ in range(200):
        chosen = sampler.random_choice(gallery, 100)
        assert chosen.is_cuda
        assert len(chosen.unique()) == 100
        counts[chosen] += 1
    assert not counts[1::3].any()
    assert counts[::3].min() > 0  # each 20 times, on average
    assert counts.max() < 60


class Assigning(torch.nn.Module):
    def __init__(self, assigner):
        super().__init__()
        self.assigner = assigner


THRESHOLDS = {
    "first stage": (0.7, 0.3, 0.3, {}),
    "second stage": (0.5, 0.5, 0.5, {"match_low_quality": False}),
    "a range": (0.6, (0.1, 0.4), 0.0, {}),
    "one box each": (0.7, 0.3, 0.0, {"gt_max_assign_all": False}),
    "whole numbers": (0.5, 0, 0.2, {}),
}


@pytest.mark.parametrize("objects", [0, 1, 3, 40])
@pytest.mark.parametrize(("high", "low", "least", "options"), THRESHOLDS.values(), ids=THRESHOLDS)
def test_assigners(high, low, least, options, objects):
    """The same assignment, also where objects share their best boxes."""
    assigner = MaxIoUAssigner(high, low, least, **options)
    gt = InstanceData(bboxes=random_boxes(objects, 30), labels=torch.randint(9, (objects,)))
    gt.bboxes[1::3] = gt.bboxes[:1]
    boxes = torch.cat([random_boxes(300, 30), gt.bboxes, gt.bboxes + 1]).round()
    priors = InstanceData(priors=boxes)
    expected = assigner.assign(priors, gt)
    head = Assigning(assigner)
    report = swin_backbone.accelerate(head)
    assert rewrites(report) == {"assigners": ("",), "overlaps": ("",)}
    found = assigner.assign(priors, gt)
    assert found.num_gts == expected.num_gts
    for name in ("gt_inds", "max_overlaps", "labels"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    report.revert()
    assert "assign_wrt_overlaps" not in assigner.__dict__
