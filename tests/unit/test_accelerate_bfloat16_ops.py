"""Ops of a compiled mmcv in bfloat16, against what serves a mmcv without compiled ops.

A stand-in takes the place of the extension: its ops refuse what kernels of mmcv refuse, and are
otherwise the served ones.
"""

import copy
import sys

import pytest
import torch

import swin_backbone  # lets mmcv.ops import
from swin_backbone.acceleration import mmcv_bfloat16

pytest.importorskip("mmdet")
pytest.importorskip("torchvision")

import mmcv.ops
from helpers.refusing_ops import install_refusing_ops, refusing
from helpers.served_ops import COMPILED, serve
from mmdet.models.dense_heads import RTMDetHead
from mmdet.models.losses.focal_loss import FocalLoss, sigmoid_focal_loss
from mmdet.models.roi_heads import SingleRoIExtractor
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData


@pytest.fixture
def calls(monkeypatch):
    """Names of the compiled ops that were called and took their tensors."""
    return install_refusing_ops(monkeypatch, psamask_forward=fill, psamask_backward=fill)


def fill(source, target, **kwargs):
    """As if it were an op that nothing serves."""
    target.fill_(float(source.sum()))


class FocalLossOnGPU(FocalLoss):
    """As on a GPU, where mmdet calls the op."""

    def forward(self, pred, target, weight=None, avg_factor=None):
        return sigmoid_focal_loss(pred, target, weight, avg_factor=avg_factor)


def rois(count=6):
    corner = torch.rand(count, 2) * 10
    return torch.cat([torch.zeros(count, 1), corner, corner + 1 + torch.rand(count, 2) * 8], 1)


def classes(count=20):
    return torch.randint(5, (count,))


def offsets():
    return torch.randn(2, 18, 8, 8), torch.rand(2, 9, 8, 8)


#: Of mmcv.ops, which hold the ops of these cases.
FILES = (
    "focal_loss", "roi_align", "roi_pool", "deform_conv", "modulated_deform_conv", "carafe"
)  # fmt: skip
#: Modules, the shape of their first argument, and what else they get.
CASES = {
    "focal loss": (lambda: mmcv.ops.SigmoidFocalLoss(2.0, 0.25), (20, 5), lambda: [classes()]),
    "softmax": (lambda: mmcv.ops.SoftmaxFocalLoss(2.0, 0.25), (20, 5), lambda: [classes()]),
    "mmdet's focal loss": (
        FocalLossOnGPU, (20, 5), lambda: [classes(), torch.rand(20), 7.0]
    ),
    "regions": (lambda: mmcv.ops.RoIAlign(3, 0.5), (1, 4, 20, 20), lambda: [rois().bfloat16()]),
    "largest of regions": (
        lambda: mmcv.ops.RoIPool(3, 0.5), (1, 4, 20, 20), lambda: [rois().bfloat16()]
    ),
    "deformable": (
        lambda: mmcv.ops.DeformConv2d(4, 4, 3, padding=1), (2, 4, 8, 8),
        lambda: [offsets()[0].bfloat16()],
    ),
    "modulated": (
        lambda: mmcv.ops.ModulatedDeformConv2d(4, 4, 3, padding=1), (2, 4, 8, 8),
        lambda: [x.bfloat16() for x in offsets()],
    ),
    "modulated, packed": (
        lambda: mmcv.ops.ModulatedDeformConv2dPack(4, 4, 3, padding=1), (2, 4, 8, 8), list
    ),
    "upsampling": (
        lambda: mmcv.ops.CARAFE(3, 1, 2), (1, 4, 5, 5),
        lambda: [torch.rand(1, 9, 10, 10).bfloat16()],
    ),
}  # fmt: skip


def run(module, x, rest):
    """The result and gradients of the input and of weights."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x, *rest)
    parts = [x, *module.parameters()]
    grads = torch.autograd.grad(out.float().square().sum(), parts, allow_unused=True)
    return [out.detach(), *(grad for grad in grads if grad is not None)]


def rows(report):
    return {row.rewrite for row in report.replaced}


@pytest.mark.parametrize(("make", "shape", "others"), CASES.values(), ids=CASES)
def test_bfloat16_is_what_a_mmcv_without_compiled_ops_computes(
    calls, monkeypatch, make, shape, others
):
    """To the bit, and in other dtypes the compiled op is called, as before."""
    stock, x, rest = make(), torch.randn(shape), others()
    fast = copy.deepcopy(stock)
    report = swin_backbone.accelerate(fast, deformable_attention=False)
    assert "bfloat16_ops" in rows(report)
    with pytest.raises(NotImplementedError, match="not implemented for"):
        run(stock, x.bfloat16(), rest)
    calls.clear()
    found = run(fast, x.bfloat16(), rest)
    assert not calls
    with torch.autocast("cpu", enabled=False):
        single = [one.float() if one.is_floating_point() else one for one in map(as_is, rest)]
        plain = [m(x, *single).detach() for m in (fast, stock)]
    assert torch.equal(*plain)
    assert len(set(calls)) == 1
    report.revert()
    assert "forward" not in vars(fast)
    serve(monkeypatch, *FILES)
    expected = run(stock, x.bfloat16(), rest)
    assert [one.dtype for one in found] == [one.dtype for one in expected]
    assert all(map(torch.equal, found, expected))


def as_is(value):
    return value if isinstance(value, torch.Tensor) else torch.as_tensor(value)


def test_what_nothing_serves_is_computed_in_float32(calls):
    """As autocast does with ops that need it: the result is float32, the gradient bfloat16."""
    stock = mmcv.ops.PSAMask("collect", (3, 3))
    fast = copy.deepcopy(stock)
    assert "bfloat16_ops" in rows(swin_backbone.accelerate(fast))
    x = torch.rand(1, 9, 4, 4)
    with pytest.raises(NotImplementedError):
        stock(x.bfloat16())
    low = x.bfloat16().requires_grad_()
    out = fast(low)
    assert out.dtype == torch.float32
    assert torch.equal(out, stock(low.detach().float()))
    (grad,) = torch.autograd.grad(out.sum(), low)
    assert grad.dtype == torch.bfloat16
    assert {"psamask_forward", "psamask_backward"} <= set(calls)


def test_an_option_that_the_served_op_has_not(calls, monkeypatch):
    """The compiled op in float32."""
    fast = mmcv.ops.RoIAlign(3, 0.5, pool_mode="max")
    extension = sys.modules["mmcv._ext"]
    monkeypatch.setattr(
        extension, "roi_align_forward", refusing("roi_align_forward", maximum, calls)
    )
    swin_backbone.accelerate(fast)
    x = torch.rand(1, 4, 20, 20)
    out = fast(x.bfloat16(), rois().bfloat16())
    assert out.dtype == torch.float32
    assert (out == x.bfloat16().float().max()).all()


def maximum(x, rois, output, *rest, **kwargs):
    output.fill_(x.max())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half])
def test_boxes_in_16_bits_are_suppressed(calls, dtype):
    """Those of heads whose boxes are distances from points, in a prediction under autocast."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        stock = RTMDetHead(3, 4, feat_channels=4, stacked_convs=1, norm_cfg={"type": "BN"})
    fast = copy.deepcopy(stock)
    report = swin_backbone.accelerate(fast)
    assert "bfloat16_ops" in rows(report)
    corner = torch.randint(0, 9, (30, 2))
    boxes = torch.cat([corner, corner + 4], 1).to(dtype)
    scores = torch.randperm(30).to(dtype) / 32  # exact in 16 bits, and none the same
    results = InstanceData(bboxes=boxes, scores=scores, labels=torch.randint(3, (30,)))
    cfg = ConfigDict(nms={"type": "nms", "iou_threshold": 0.5}, max_per_img=20)
    process = {"cfg": cfg, "rescale": False, "img_meta": {}}
    with pytest.raises(NotImplementedError):
        stock._bbox_post_process(copy.deepcopy(results), **copy.deepcopy(process))
    found = fast._bbox_post_process(copy.deepcopy(results), **copy.deepcopy(process))
    results.bboxes, results.scores = boxes.float(), scores.float()
    expected = stock._bbox_post_process(results, **process)
    assert torch.equal(found.bboxes.float(), expected.bboxes)
    assert torch.equal(found.labels, expected.labels)
    report.revert()
    assert "_bbox_post_process" not in vars(fast)


def test_regions_that_other_rewrites_leave_to_mmcv(calls):
    """An extractor on a CPU calls its layers, whose op is compiled."""
    layer = {"type": "RoIAlign", "output_size": 3, "sampling_ratio": 0}
    stock = SingleRoIExtractor(layer, 4, [4, 8], finest_scale=10)
    fast = copy.deepcopy(stock)
    swin_backbone.accelerate(fast)
    maps = [torch.randn(1, 4, side, side).bfloat16() for side in (20, 10)]
    with pytest.raises(NotImplementedError):
        stock(maps, rois())
    assert fast(maps, rois()).dtype == torch.bfloat16


def test_every_module_of_mmcv_that_calls_an_op_is_found(calls):
    """All of the files that hold ops, but for one that calls none."""
    kinds = {
        kind
        for name, file in sys.modules.items()
        if name.startswith("mmcv.ops.") and hasattr(file, "ext_module")
        for kind in vars(file).values()
        if isinstance(kind, type) and issubclass(kind, torch.nn.Module)
        if kind.__module__ == file.__name__
    }
    assert len(kinds) > 20
    left = {kind.__name__ for kind in kinds if not mmcv_bfloat16.finds(bare(kind))}
    assert left <= {"GroupAll"}


def bare(kind):
    """A module of a class, as far as looking for its methods goes."""
    module = torch.nn.Module.__new__(kind)
    torch.nn.Module.__init__(module)
    return module


@pytest.mark.skipif(COMPILED, reason="this mmcv has compiled ops")
def test_without_compiled_ops_there_is_nothing_to_do():
    report = swin_backbone.accelerate(mmcv.ops.RoIAlign(3))
    assert not [row for row in report.rows if row.rewrite == "bfloat16_ops"]


@pytest.mark.gpu
@pytest.mark.skipif(not COMPILED, reason="this mmcv has no compiled ops")
@pytest.mark.parametrize("name", ["focal loss", "regions", "deformable", "modulated"])
def test_on_a_card(name):
    """Beside the compiled op in float32: to bfloat16's roundings of inputs and results."""
    make, shape, others = CASES[name]
    stock = make().cuda()
    fast = copy.deepcopy(stock)
    swin_backbone.accelerate(fast)
    x, rest = torch.randn(shape, device="cuda").bfloat16(), [one.cuda() for one in others()]
    single = [one.float() if one.is_floating_point() else one for one in rest]
    torch.testing.assert_close(
        fast(x, *rest).float(), stock(x.float(), *single), rtol=2e-2, atol=2e-2
    )
