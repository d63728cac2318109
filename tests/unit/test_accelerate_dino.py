"""DINO's head of mmdet, accelerated, against the stock class."""

import copy

import pytest
import torch
from helpers.paths import ROOT
from helpers.small_detector import small_detector
from helpers.waits import COPY, waits

import swin_backbone
from swin_backbone.acceleration import mmdet_matching
from swin_backbone.ops.triton import launch

pytest.importorskip("mmdet")

from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

CONFIG = ROOT / "configs" / "swin_det" / "dino-4scale_swin-t-p4-w7_8xb2-12e_coco.py"
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
CLASSES, LAYERS = 5, 3


def build_head(**changes):
    register_all_modules(init_default_scope=False)
    config = small_detector(CONFIG).model
    head = config.bbox_head
    head.update(train_cfg=config.train_cfg, test_cfg=config.test_cfg, num_classes=CLASSES)
    head.update(num_pred_layer=LAYERS + 1, as_two_stage=True, share_pred_layer=False)
    for name, value in changes.items():
        place, _, key = name.rpartition("__")
        (head[place] if place else head)[key] = value
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(head).train()


def accelerated(head):
    fast = copy.deepcopy(head)
    report = swin_backbone.accelerate(fast)
    assert "query_losses" in {row.rewrite for row in report.replaced}
    return fast, report


@pytest.fixture
def double():
    """What mmdet makes of default dtype is float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


#: Rows and columns of images.
SIZES = [(64, 96), (80, 50), (33, 64)]


def objects_of(counts, device="cpu"):
    objects = []
    for count, (rows, columns) in zip(counts, SIZES, strict=False):
        size = torch.tensor([columns, rows], device=device, dtype=torch.get_default_dtype())
        corner = torch.rand(count, 2, device=device) * 0.6
        boxes = torch.cat([corner, corner + 0.05 + 0.3 * torch.rand(count, 2, device=device)], 1)
        labels = torch.randint(CLASSES, (count,), device=device)
        objects.append(InstanceData(labels=labels, bboxes=boxes * size.repeat(2)))
    return objects


def losses_of(head, objects, queries=7, proposals=7, groups=2, device="cpu", dtype=None):
    """Losses, and gradients of scores and boxes."""
    torch.manual_seed(0)
    images, most = len(objects), max(len(one.labels) for one in objects)
    noised = 2 * groups * most
    meta = {"num_denoising_queries": noised, "num_denoising_groups": groups}
    maps = []
    for shape in ((LAYERS, images, noised + queries), (images, proposals)):
        scores = torch.randn(*shape, CLASSES, device=device, dtype=dtype)
        boxes = torch.rand(*shape, 4, device=device, dtype=dtype) * 0.4 + 0.1
        maps += [scores.requires_grad_(), boxes.requires_grad_()]
    metas = [{"img_shape": size} for size in SIZES[:images]]
    losses = head.loss_by_feat(*maps, objects, metas, meta)
    total = sum(value.sum() for value in losses.values())
    grads = torch.autograd.grad(total, maps, allow_unused=True, materialize_grads=True)
    return {name: value.detach() for name, value in losses.items()}, grads


CHANGES = {
    "as configured": {},
    "own means": {"sync_cls_avg_factor": False},
    "smooth": {"loss_bbox": {"type": "SmoothL1Loss", "beta": 0.2, "loss_weight": 5.0}},
    "other overlaps": {"loss_iou": {"type": "CIoULoss", "loss_weight": 2.0}},
}


@pytest.mark.parametrize("numbers", [{}, {"proposals": 9}, {"groups": 1}], ids=str)
@pytest.mark.parametrize("counts", [(3, 2), (0, 4), (9, 1, 5), (0, 0), (2,)], ids=str)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_losses(double, counts, change, numbers):
    """Of every layer, of proposals and of noised objects, in float64: with objects in some images,
    in none, and more of them than queries."""
    stock = build_head(**change)
    fast, report = accelerated(stock)
    objects = objects_of(counts)
    expected, gradients = losses_of(stock, copy.deepcopy(objects), **numbers)
    losses, found = losses_of(fast, objects, **numbers)
    assert list(losses) == list(expected)
    for name, value in losses.items():
        assert value.shape == expected[name].shape, name
        # mmdet adds the epsilon of float32 to what it divides by; nothing else is rounded.
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-14, msg=name)
    torch.testing.assert_close(found, gradients, rtol=1e-11, atol=1e-14)
    report.revert()
    assert "loss_by_feat" not in fast.__dict__


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_in_both_precisions(device, dtype):
    """Of scores and boxes as autocast leaves them. Stock rounds sizes of images, boxes and costs to
    16 bits, so that other queries may be matched: losses are as near as such a match is good."""
    stock = build_head().to(device)
    fast, _ = accelerated(stock)
    objects = objects_of((4, 2), device)
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        expected, _ = losses_of(stock, copy.deepcopy(objects), device=device, dtype=dtype)
        losses, grads = losses_of(fast, objects, device=device, dtype=dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(
        {name: value.float().sum() for name, value in losses.items()},
        {name: value.float().sum() for name, value in expected.items()},
        rtol=tolerance, atol=tolerance,
    )  # fmt: skip
    assert all(grad.dtype == dtype for grad in grads)


@pytest.mark.parametrize("synchronised", [True, False])
@pytest.mark.parametrize("counts", [(3, 2), (0, 0)], ids=str)
def test_means_over_processes_with_one_message(double, counts, synchronised, monkeypatch):
    """Of two processes, the other of which has objects of its own. Whatever the objects, each
    process sends as many messages, or one would wait for ever."""
    import mmdet.models.dense_heads.detr_head as detr
    import mmdet.models.dense_heads.dino_head as dino
    import mmdet.utils
    import mmengine.dist

    messages = []

    def reduce_mean(own):
        messages.append(own)
        return (own + 5) / 2

    for module in (detr, dino, mmdet.utils):
        monkeypatch.setattr(module, "reduce_mean", reduce_mean)
    monkeypatch.setattr(mmengine.dist, "get_world_size", lambda: 2)
    stock = build_head(sync_cls_avg_factor=synchronised)
    fast, _ = accelerated(stock)
    objects = objects_of(counts)
    expected, gradients = losses_of(stock, copy.deepcopy(objects))
    messages.clear()
    losses, found = losses_of(fast, objects)
    assert len(messages) == 1
    for name, value in losses.items():
        # Numbers of boxes travel in float32, which are exact there.
        torch.testing.assert_close(value.sum(), expected[name].sum(), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(found, gradients, rtol=1e-6, atol=1e-12)


def test_the_host_waits_for_costs_alone():
    """Whose copy is none on a CPU, where the loss of classes also looks how many of these there
    are. mmdet waits in each layer, and at each image."""
    stock = build_head()
    fast, _ = accelerated(stock)
    objects = objects_of((4, 2))
    but = COPY, "aten::_local_scalar_dense focal_loss.py"
    assert waits(lambda: losses_of(fast, objects), but=but) == 0
    assert waits(lambda: losses_of(stock, objects), but=but) > 40


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"loss_cls": {"type": "QualityFocalLoss"}}, "QualityFocalLoss"),
        ({"loss_iou": {"type": "GIoULoss", "reduction": "sum"}}, "sum"),
        (
            {
                "train_cfg__assigner": {
                    "type": "HungarianAssigner",
                    "match_costs": [{"type": "DiceCost"}],
                }
            },
            "DiceCost",
        ),
        ({"train_cfg__assigner": {"type": "TopkHungarianAssigner", "task_aligned": 1}}, "Topk"),
    ],
)
def test_other_losses_are_left(change, word):
    try:
        head = build_head(**change)
    except (TypeError, KeyError) as error:
        pytest.skip(f"this mmdet has no such assigner: {error}")
    rows = swin_backbone.accelerate(head).left
    assert any(word in row.reason for row in rows if row.rewrite == "query_losses")


def test_a_head_that_changes_targets_is_left():
    head = build_head()
    own = type("Own", (type(head),), {"get_dn_targets": lambda self, *args: None})
    head.__class__ = own
    (row,) = [row for row in swin_backbone.accelerate(head).left if row.rewrite == "query_losses"]
    assert "get_dn_targets" in row.reason


def test_a_loss_that_is_watched_is_called():
    stock = build_head()
    fast, _ = accelerated(stock)
    objects = objects_of((3, 2))
    calls = []
    fast.loss_iou.register_forward_hook(lambda *given: calls.append(1))
    expected, _ = losses_of(stock, copy.deepcopy(objects))
    losses, _ = losses_of(fast, objects)
    assert len(calls) == 2 * LAYERS + 1
    for name, value in losses.items():
        assert torch.equal(value, expected[name])


def test_boxes_of_mmdets_own_class_are_for_the_stock_head():
    """Which takes none."""
    from mmdet.structures.bbox import HorizontalBoxes

    stock = build_head()
    fast, _ = accelerated(stock)
    objects = objects_of((3, 2))
    for one in objects:
        one.bboxes = HorizontalBoxes(one.bboxes)
    errors = []
    for head in (stock, fast):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            losses_of(head, objects)
        errors.append((caught.type, str(caught.value), caught.traceback[-1].name))
    assert errors[0] == errors[1]


def test_costs_of_kernels_that_only_compile_match_anything(monkeypatch):
    """Memory as it was found is no number, sometimes, while kernels are compiled ahead."""
    costs = [torch.full((2, 5, 3), float("nan")), torch.full((2, 5, 1), float("inf"))]
    with pytest.raises(ValueError, match=r"numeric|feasible"):
        mmdet_matching.matched(costs)
    monkeypatch.setattr(launch, "collected", object())
    for (queries, objects), count in zip(mmdet_matching.matched(costs), (3, 1), strict=True):
        assert queries.shape == objects.shape == (2, count)
