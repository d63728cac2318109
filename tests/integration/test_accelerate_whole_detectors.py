"""Losses of whole detectors, accelerated, against the stock ones."""

import copy
import pickle
import sys
from functools import partial, partialmethod
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from benchmarking import detectors
from benchmarking.segmentors import Task
from helpers.detector_steps import assert_same_gradients, build, counted, step
from helpers.graph_recorders import RunsAgain
from helpers.refusing_ops import install_refusing_ops
from helpers.waits import waits

import swin_backbone
from swin_backbone import ops
from swin_backbone.acceleration import mmdet_mask_targets, mmdet_query_losses
from swin_backbone.acceleration.graphed_encoders import dense_head, graph_layers
from swin_backbone.ops import dispatch
from swin_backbone.ops.torch_internals.module_contents import is_bare

pytest.importorskip("mmdet")
pytest.importorskip("torchvision")

from mmdet.structures.mask import PolygonMasks
from mmengine.registry import MODELS

EXPECTED = {
    "mask-rcnn": {
        "roi_extractors",
        "mask_targets",
        "rpn_samples",
        "rpn_losses",
        "anchors",
        "proposals",
        "assigners",
        "samplers",
        "sampling",
        "overlaps",
        "box_targets",
        "box_losses",
    },
    "cascade": {
        "roi_extractors",
        "mask_targets",
        "rpn_losses",
        "proposals",
        "box_targets",
        "box_losses",
        "iou_losses",
        "refined_boxes",
    },
    "atss-dyhead": {"anchors", "anchor_losses", "assigners", "box_targets", "iou_losses"},
    "rtmdet": {"anchor_losses", "assigners", "iou_losses"},
    "retinanet": {"anchors", "anchor_losses", "assigners", "overlaps", "box_targets"},
    "dino": {
        "deformable_attention",
        "query_losses",
        "feature_sizes",
        "iou_losses",
        "positional_encodings",
    },
    "mask2former": {"deformable_attention", "mask_losses", "positional_encodings"},
}


def losses_and_gradients(model, images, samples):
    torch.manual_seed(0)
    model.zero_grad()
    losses = model.loss(images, copy.deepcopy(samples))
    losses = {
        name: sum(x.sum() for x in value) if isinstance(value, list) else value.sum()
        for name, value in losses.items()
    }
    sum(value for name, value in losses.items() if "loss" in name).backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: value.detach() for name, value in losses.items()}, grads


DEVICES, SLOW = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)], pytest.mark.slow


@pytest.fixture
def equal_scores_in_order(monkeypatch):
    """Of equal scores mmdet takes any: PyTorch's sort by vector instructions keeps no order of
    equal values, and other proposals would be drawn. Two of 1,500 near a half may be equal."""
    stock = torch.Tensor.sort
    monkeypatch.setattr(torch.Tensor, "sort", partialmethod(stock, stable=True))


#: Detectors that mmdet computes in float64, and whether their objects must be of it, too.
IN_FLOAT64 = {"mask-rcnn": True, "cascade": True, "retinanet": False, "atss-dyhead": False}


def without_kinks(model):
    """Where a ReLU has its kink a rounding decides whether there is a gradient."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is torch.nn.ReLU:
                setattr(module, name, torch.nn.SiLU())
    return model


def in_float64(name, model, images, samples):
    for sample in samples if IN_FLOAT64[name] else ():
        sample.gt_instances.bboxes = sample.gt_instances.bboxes.double()
    return model.double(), images.double()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "name",
    [
        "mask-rcnn",
        "cascade",
        "retinanet",
        "atss-dyhead",
        "rtmdet",
        "mask2former",
        pytest.param("dino", marks=SLOW),
    ],
)
def test_losses_are_those_of_the_stock_model(name, device, monkeypatch, equal_scores_in_order):
    """The rest is the same but for roundings, of float32 on a GPU, whose kernels have no float64.
    There other boxes would be drawn, so that the stock sampler stays. DINO's points lie where its
    maps have kinks, and a rounding may put one on the other side: a few gradients then differ, by
    a hundredth of what all are."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    stock = without_kinks(build(name)).train().to(device)
    task = Task(name, 2, "train", (64, 96))
    images, samples = torch.randn(2, 3, 64, 96, device=device), detectors.draw_samples(task, device)
    if device == "cpu" and name in IN_FLOAT64:
        stock, images = in_float64(name, stock, images, samples)
    fast = copy.deepcopy(stock)
    report = swin_backbone.accelerate(fast, samplers=device == "cpu")
    expected_rewrites = EXPECTED[name] - ({"samplers"} if device == "cuda" else set())
    assert expected_rewrites <= {row.rewrite for row in report.replaced}
    (expected, gradients), (losses, found) = (
        losses_and_gradients(model, images, samples) for model in (stock, fast)
    )
    assert losses.keys() == expected.keys()
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    assert found.keys() == gradients.keys()
    if name == "dino":
        names = sorted(found)
        both = [torch.cat([one[n].flatten() for n in names]) for one in (found, gradients)]
        assert (both[0] - both[1]).norm() <= 1e-2 * both[1].norm()
        return
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("device", DEVICES)
def test_losses_with_polygons(monkeypatch, device, equal_scores_in_order):
    """The stock model's, of boxes that are drawn on the host."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    stock, task = build("mask-rcnn").train().to(device), Task("mask-rcnn", 2, "train", (64, 96))
    images, samples = torch.randn(2, 3, 64, 96, device=device), detectors.draw_samples(task, device)
    for sample in samples:
        sample.gt_instances.masks = triangles(sample.gt_instances.bboxes, task.size)
    fast, drawn = copy.deepcopy(stock), []
    swin_backbone.accelerate(fast, samplers=device == "cpu")
    cut_out = mmdet_mask_targets.cut_out
    monkeypatch.setattr(
        mmdet_mask_targets, "cut_out", lambda *rest: drawn.append(1) or cut_out(*rest)
    )
    expected, _ = losses_and_gradients(stock, images, samples)
    assert not drawn
    found, _ = losses_and_gradients(fast, images, samples)
    assert len(drawn) == len(samples)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def triangles(boxes, size):
    """Polygons of the lower left half of each box."""
    points = [[x1, y1, x1, y2, x2, y2] for x1, y1, x2, y2 in boxes.tolist()]
    return PolygonMasks([[np.array(one)] for one in points], *size)


@pytest.mark.parametrize(
    "name",
    [
        "mask-rcnn",
        "retinanet",
        "atss-dyhead",
        "rtmdet",
        pytest.param("dino", marks=pytest.mark.slow),
    ],
)
def test_a_step_in_bfloat16_with_a_compiled_mmcv(name, monkeypatch):
    """Whose ops refuse bfloat16, as those of mmcv on a GPU do: losses are those without compiled
    ops, to the bit. On a CPU mmdet has focal losses without an op."""
    model, task = build(name).train(), Task(name, 2, "train", (64, 96))
    images, samples = torch.randn(2, 3, 64, 96), detectors.draw_samples(task, "cpu")

    def losses(one):
        with torch.autocast("cpu", torch.bfloat16):
            return losses_and_gradients(one, images, samples)[0]

    served = copy.deepcopy(model)
    swin_backbone.accelerate(served)
    expected = losses(served)
    install_refusing_ops(monkeypatch)
    if name in ("mask-rcnn", "atss-dyhead"):
        with pytest.raises(NotImplementedError, match="bfloat16"):
            losses(copy.deepcopy(model))
    report = swin_backbone.accelerate(model)
    assert "bfloat16_ops" in {row.rewrite for row in report.replaced}
    called = []
    monkeypatch.setattr(
        mmdet_query_losses, "is_bare", lambda *one: called.append(is_bare(*one)) or called[-1]
    )
    found = losses(model)
    assert all(called)  # other rewrites do not step aside for this one
    assert bool(called) is (name == "dino")
    assert found.keys() == expected.keys()
    assert all(torch.equal(loss, expected[key]) for key, loss in found.items())


def test_the_region_proposal_network_shares_ground_truth():
    """It finds labels of zero in samples of its own, and everything else in nobody's copy."""
    model = build("mask-rcnn").train()
    images = torch.randn(2, 3, 64, 96)
    samples = detectors.draw_objects(Task("mask-rcnn", 2, "train", (64, 96)), "cpu")
    labels = [sample.gt_instances.labels.clone() for sample in samples]
    report = swin_backbone.accelerate(model)
    seen, stock = [], model.rpn_head.loss_and_predict

    def spy(maps, own, **options):
        seen.extend(own)
        return stock(maps, own, **options)

    model.rpn_head.loss_and_predict = spy
    model.loss(images, samples)
    for own, sample, label in zip(seen, samples, labels, strict=True):
        assert own is not sample
        assert not own.gt_instances.labels.any()
        assert torch.equal(sample.gt_instances.labels, label)
        assert own.gt_instances.masks is sample.gt_instances.masks
        assert own.gt_instances.bboxes is sample.gt_instances.bboxes
        assert own.metainfo == sample.metainfo
    report.revert()
    assert "loss" not in vars(model)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("switches", "ahead"), [({}, True), ({"mask_targets": False}, False)])
def test_masks_are_copied_while_the_backbone_is_computed(monkeypatch, switches, ahead, device):
    """Once each, before anything is drawn, which waits; nobody holds them afterwards."""
    model = build("mask-rcnn").train().to(device)
    swin_backbone.accelerate(model, **switches)
    images = torch.randn(2, 3, 64, 96, device=device)
    samples = detectors.draw_objects(Task("mask-rcnn", 2, "train", (64, 96)), device)
    order, stock, rpn = [], torch.from_numpy, model.rpn_head.loss_by_feat
    pixels = [sample.gt_instances.masks.masks for sample in samples]

    def spy(array):
        if any(array is one for one in pixels):
            order.append("masks")
        return stock(array)

    def drawn(*args, **kwargs):
        order.append("proposals")
        return rpn(*args, **kwargs)

    monkeypatch.setattr(torch, "from_numpy", spy)
    model.rpn_head.loss_by_feat = drawn
    holders = [sys.getrefcount(one) for one in pixels]
    for _ in range(2):
        losses = model.loss(images, samples)
        assert order == ["masks", "masks", "proposals"] if ahead else order[0] == "proposals"
        order.clear()
    sum(sum(v) if isinstance(v, list) else v for k, v in losses.items() if "loss" in k).backward()
    assert [sys.getrefcount(one) for one in pixels] == holders


def test_a_proposal_network_that_is_not_mmdets_gets_a_copy():
    model = build("mask-rcnn")
    own = type("OwnHead", (type(model.rpn_head),), {})
    model.rpn_head.__class__ = own
    (row,) = [row for row in swin_backbone.accelerate(model).left if row.rewrite == "rpn_samples"]
    assert "OwnHead is not mmdet's" in row.reason


@pytest.fixture(scope="module")
def rpn_head():
    """Nobody may change it."""
    return build("mask-rcnn").train().rpn_head


PROPOSALS = {
    "as configured": {},
    "all anchors": {"nms_pre": -1},
    "few anchors": {"nms_pre": 7},
    "other overlaps": {"nms": {"type": "nms", "iou_threshold": 0.3}},
    "large boxes": {"min_bbox_size": 40},
    "no box is large enough": {"min_bbox_size": 97},
    "small ones, too": {"min_bbox_size": -1},
    "more than there are": {"max_per_img": 5000},
    "soft suppression": {"nms": {"type": "soft_nms", "iou_threshold": 0.5}},
    "levels one by one": {"nms": {"type": "nms", "iou_threshold": 0.5, "split_thr": 20}},
}
SIZES = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]


def proposals_of(heads, changes, shapes, rescale=False, device="cpu"):
    """Of images of these shapes, by each head: of scores in any order, none like another, since of
    equal ones mmdet takes any."""
    torch.manual_seed(0)
    number = len(shapes)
    parts = [number * 3 * rows * columns for rows, columns in SIZES]
    scores = torch.linspace(-4, 4, sum(parts), device=device)[torch.randperm(sum(parts))]
    scores = [x.view(number, 3, *s) for x, s in zip(scores.split(parts), SIZES, strict=True)]
    boxes = [torch.randn(number, 12, *s, device=device) for s in SIZES]
    metas = [{"img_shape": shape, "scale_factor": (0.5, 0.25)} for shape in shapes]
    cfg = copy.deepcopy(heads[0].test_cfg)
    cfg.update({"nms_pre": 1000, "max_per_img": 40, **changes})
    return [
        head.predict_by_feat(
            [one.clone().requires_grad_() for one in scores], boxes,
            batch_img_metas=metas, cfg=cfg, rescale=rescale,
        )
        for head in heads
    ]  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shapes", [((64, 96), (50, 70)), ((64, 96),) * 3], ids=["two", "one"])
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("changes", PROPOSALS.values(), ids=PROPOSALS)
def test_proposals(rpn_head, changes, rescale, shapes, device):
    """The same boxes, of images of two shapes and of one."""
    stock, fast = (copy.deepcopy(rpn_head).to(device) for _ in range(2))
    report = swin_backbone.accelerate(fast)
    expected, found = proposals_of((stock, fast), changes, shapes, rescale, device)
    for own, right in zip(found, expected, strict=True):
        assert len(own) == len(right)
        assert len(own) > 5 or changes.get("min_bbox_size", 0) > 0
        torch.testing.assert_close(own.bboxes, right.bboxes)
        torch.testing.assert_close(own.scores, right.scores.detach())
        assert not own.labels.any()
        assert len(own.labels) == len(own)
        assert not own.bboxes.requires_grad
    report.revert()
    assert not {"predict_by_feat", "loss_by_feat"} & fast.__dict__.keys()


def test_proposals_of_a_batch_with_one_wait(rpn_head, monkeypatch):
    """By kernels, here by a stand-in; a CPU counts what a number is compared with as a copy."""
    stock, fast = rpn_head, copy.deepcopy(rpn_head)
    swin_backbone.accelerate(fast)
    monkeypatch.setattr(dispatch, "suppression", lambda boxes: "triton")
    monkeypatch.setattr(ops, "unsuppressed", lambda boxes, threshold: boxes[..., 0] > 0)
    for number in (2, 5):
        shapes = ((64, 96),) * number
        assert waits(partial(proposals_of, [fast], {}, shapes)) <= 2
        assert waits(partial(proposals_of, [stock], {}, shapes)) > 2 * number + 2


def objects_of(number, dtype=torch.float64):
    """Objects of one class and metadata of images."""
    samples = detectors.draw_objects(Task("mask-rcnn", number, "train", (64, 96)), "cpu")
    objects = [sample.gt_instances for sample in samples]
    for some in objects:
        some.labels[:] = 0
        some.bboxes = some.bboxes.to(dtype)
    return objects, [dict(sample.metainfo) for sample in samples]


def rpn_loss(head, objects, metas, dtype=torch.float64):
    """Losses, and gradients of maps."""
    torch.manual_seed(1)
    number = len(metas)
    scores = [torch.randn(number, 3, *s, dtype=dtype, requires_grad=True) for s in LAID_OUT]
    boxes = [torch.randn(number, 12, *s, dtype=dtype, requires_grad=True) for s in LAID_OUT]
    losses = head.loss_by_feat(scores, boxes, objects, metas)
    values = [sum(losses[name]) for name in ("loss_rpn_cls", "loss_rpn_bbox")]
    grads = torch.autograd.grad(sum(values), [*scores, *boxes])
    return [*(value.detach() for value in values), *grads]


#: Of maps of images of 64x96.
LAID_OUT = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 1)]


@pytest.mark.parametrize("loss", ["L1Loss", "SmoothL1Loss"])
@pytest.mark.parametrize(
    "change",
    ["nothing", "padding", "border", "wide border", "padding and border", "no objects",
     "no object at all", "weight"],
)  # fmt: skip
def test_losses_of_proposals(rpn_head, change, loss):
    """Of all anchors, of those that count in images of two shapes, of those of some images alone,
    of weighted ones: as stock."""
    stock = copy.deepcopy(rpn_head).double()
    stock.loss_bbox = MODELS.build({"type": f"mmdet.{loss}", "loss_weight": 2.0})
    stock.train_cfg.pos_weight = 3.0 if change == "weight" else -1
    borders = {"border": 0, "padding and border": 0, "wide border": 7}
    stock.train_cfg.allowed_border = borders.get(change, -1)
    fast = copy.deepcopy(stock)
    report = swin_backbone.accelerate(fast)
    assert "rpn_losses" in {row.rewrite for row in report.replaced}
    objects, metas = objects_of(2)
    metas[1]["pad_shape"] = (48, 60) if "padding" in change else (64, 96)
    metas[1]["img_shape"] = (42, 60) if change in borders else (64, 96)
    if change == "no objects":
        objects[0] = objects[0][:0]
    if change == "no object at all":
        objects = [some[:0] for some in objects]
    results = [rpn_loss(head, objects, metas) for head in (stock, fast)]
    # Weights of anchors are float32.
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-9)
    report.revert()
    assert "loss_by_feat" not in fast.__dict__


@pytest.mark.parametrize("with_objects", [True, False])
def test_losses_of_proposals_in_16_bits(rpn_head, with_objects):
    """Of maps in bfloat16, as autocast leaves them: the stock head's, in its dtypes."""
    fast = copy.deepcopy(rpn_head)
    swin_backbone.accelerate(fast)
    objects, metas = objects_of(2, torch.float32)
    objects = objects if with_objects else [some[:0] for some in objects]
    found, right = (rpn_loss(head, objects, metas, torch.bfloat16) for head in (fast, rpn_head))
    torch.testing.assert_close(found, right, rtol=1e-2, atol=1e-6)  # sums of gradients in bfloat16


def test_losses_of_proposals_with_one_wait(rpn_head):
    """For how many anchors there are to draw from."""
    fast = copy.deepcopy(rpn_head)
    swin_backbone.accelerate(fast)
    for number in (2, 5):
        drawn = *objects_of(number, torch.float32), torch.float32
        assert waits(partial(rpn_loss, fast, *drawn)) == 1
        assert waits(partial(rpn_loss, rpn_head, *drawn)) > 6 * number


def test_anchors_that_count_with_one_wait_for_each_size(rpn_head):
    fast = copy.deepcopy(rpn_head)
    fast.train_cfg.allowed_border = 0
    swin_backbone.accelerate(fast)
    for sizes in (1, 2):
        objects, metas = objects_of(4, torch.float32)
        for meta in metas[::sizes]:
            meta["img_shape"] = (60, 96)
        assert waits(partial(rpn_loss, fast, objects, metas, torch.float32)) == 1 + sizes


def test_no_anchor_that_counts_is_mmdets_error(rpn_head):
    """Of an image of two pixels."""
    objects, metas = objects_of(2)
    metas[1]["img_shape"] = (1, 2)
    heads = [copy.deepcopy(rpn_head).double() for _ in range(2)]
    swin_backbone.accelerate(heads[1])
    for head in heads:
        head.train_cfg.allowed_border = 0
        with pytest.raises(ValueError, match="no valid anchor"):
            rpn_loss(head, objects, metas)


def test_losses_that_ignore_a_label_are_left(rpn_head):
    head = copy.deepcopy(rpn_head)
    head.loss_cls.ignore_index = 1
    (row,) = [one for one in swin_backbone.accelerate(head).left if one.rewrite == "rpn_losses"]
    assert "ignores anchors" in row.reason


def test_the_hook_turns_cudnns_trials_off_for_detectors(monkeypatch):
    from swin_backbone.openmmlab.accelerate_hook import AccelerateHook

    for model, expected in ((build("mask-rcnn"), False), (torch.nn.Conv2d(3, 3, 3), True)):
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
        AccelerateHook().before_run(SimpleNamespace(model=model))
        assert torch.backends.cudnn.benchmark is expected


def test_a_head_of_proposals_by_the_graph_of_its_maps():
    """Steps, gradients and predictions are those without graphs."""
    model = build("mask-rcnn").train()
    model.requires_grad_(True)
    stock = copy.deepcopy(model)
    for one in (model, stock):
        swin_backbone.accelerate(one)
    graphs = swin_backbone.graph_backbone(
        model, 2, lambda device: RunsAgain(), head=dense_head(model)[0]
    )
    called = []
    model.rpn_head.rpn_conv.forward = counted(model.rpn_head.rpn_conv.forward, called)
    task = Task("mask-rcnn", 2, "train", (64, 96))
    for seed in range(3):
        torch.manual_seed(seed)
        images, samples = torch.randn(2, 3, 64, 96), detectors.draw_samples(task, "cpu")
        assert torch.equal(*(step(one, images, samples, seed) for one in (model, stock)))
        assert_same_gradients(model, stock, 1e-6)  # of five levels
    before = len(called)
    step(model, images, samples, 0)
    assert len(called) - before == 5  # a replay, which runs again here, and no more
    for one in (model, stock):
        one.eval()
    for _ in range(3):
        with torch.no_grad():
            one, two = (
                m.predict(images, copy.deepcopy(samples), rescale=False) for m in (model, stock)
            )
        for found, expected in zip(one, two, strict=True):
            assert torch.equal(found.pred_instances.bboxes, expected.pred_instances.bboxes)
    assert (graphs.reason, graphs.shapes) == (None, 2)


def test_a_mask_transformer_by_the_graph_of_its_maps():
    """Backbone, pixel decoder and all layers of the decoder: steps, gradients and predictions are
    those without graphs."""
    model = build("mask2former").train()
    model.requires_grad_(True)
    stock = copy.deepcopy(model)
    for one in (model, stock):
        swin_backbone.accelerate(one)
    head, stand_ins = dense_head(model)
    assert head == "decode_head"
    graphs = swin_backbone.graph_backbone(
        model, 2, lambda device: RunsAgain(), head=head, stand_ins=stand_ins
    )
    called = []
    layer = model.decode_head.transformer_decoder.layers[0]
    layer.forward = counted(layer.forward, called)
    task = Task("mask2former", 2, "train", (64, 96))
    for seed in range(3):
        torch.manual_seed(seed)
        images, samples = torch.randn(2, 3, 64, 96), detectors.draw_samples(task, "cpu")
        torch.testing.assert_close(*(step(one, images, samples, seed) for one in (model, stock)))
        assert_same_gradients(model, stock, 1e-5)  # of all layers' results
    before = len(called)
    step(model, images, samples, 0)
    assert len(called) - before == 1  # a replay, which runs again here, and no more
    for one in (model, stock):
        one.eval()
    for _ in range(3):
        with torch.no_grad():
            one, two = (m.predict(images, copy.deepcopy(samples)) for m in (model, stock))
        for found, expected in zip(one, two, strict=True):
            assert torch.equal(found.pred_sem_seg.data, expected.pred_sem_seg.data)
    assert (graphs.reason, graphs.shapes) == (None, 2)


@pytest.mark.parametrize("padded", [False, True])
def test_an_encoder_by_the_graph_of_its_layers(padded):
    """Of DINO, with masks of padding as a further tensor and without: steps and gradients are those
    without graphs, as are predictions."""
    model = build("dino").train()
    stock = copy.deepcopy(model)
    for one in (model, stock):
        swin_backbone.accelerate(one)
    graphs = graph_layers(model.encoder, 2, lambda device: RunsAgain())
    called = []
    layer = model.encoder.layers[0]
    layer.forward = counted(layer.forward, called)
    task = Task("dino", 2, "train", (64, 96))
    for seed in range(3):
        torch.manual_seed(seed)
        images, samples = torch.randn(2, 3, 64, 96), detectors.draw_samples(task, "cpu")
        for sample in samples[: int(padded)]:
            sample.set_metainfo({"img_shape": (50, 90)})
        losses = [step(one, images, copy.deepcopy(samples), seed) for one in (model, stock)]
        torch.testing.assert_close(*losses)
        assert_same_gradients(model, stock, 1e-5)
    before = len(called)
    step(model, images, copy.deepcopy(samples), 0)
    assert len(called) - before == 1
    for one in (model, stock):
        one.eval()
    for _ in range(3):
        with torch.no_grad():
            one, two = (
                m.predict(images, copy.deepcopy(samples), rescale=False) for m in (model, stock)
            )
        for found, expected in zip(one, two, strict=True):
            assert torch.equal(found.pred_instances.bboxes, expected.pred_instances.bboxes)
    assert (graphs.reason, graphs.shapes) == (None, 2)
    graphs.revert()


def test_an_encoder_in_graphs_is_told_and_given_back():
    model = build("dino")
    report = swin_backbone.accelerate(model, graphs=True)
    (told,) = [
        row for row in report.replaced if (row.rewrite, row.modules) == ("graphs", ("encoder",))
    ]
    assert "all layers" in told.what
    report.revert()
    assert (
        not {"forward", "run_layers", "get_encoder_reference_points"} & vars(model.encoder).keys()
    )


@pytest.mark.parametrize("name", ["mask-rcnn", "dino", "mask2former"])
def test_what_is_graphed_already_is_told_and_left(name):
    model = build(name)
    first = swin_backbone.accelerate(model, graphs=True)
    second = swin_backbone.accelerate(model, graphs=True)
    graphed = {row.modules for row in first.replaced if row.rewrite == "graphs"}
    again = [row for row in second.left if row.rewrite == "graphs"]
    assert again
    assert {row.modules for row in again} <= graphed
    assert all("already" in row.reason for row in again)
    assert not any(row.rewrite == "graphs" for row in second.replaced)
    for report in (second, first):
        report.revert()
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("name", ["dino", "mask2former"])
def test_an_assigner_of_ones_own_is_left(name):
    model = build(name)
    head = model.bbox_head if name == "dino" else model.decode_head
    head.assigner = SimpleNamespace()  # which need not have costs
    rewrite = "query_losses" if name == "dino" else "mask_losses"
    (row,) = [row for row in swin_backbone.accelerate(model).left if row.rewrite == rewrite]
    assert "its assigner is a SimpleNamespace" in row.reason


@pytest.mark.parametrize("name", ["mask-rcnn", "dino", "mask2former"])
def test_a_pickled_detector_is_the_stock_one(name):
    """Also with methods that its class does not have, and parts that are no modules; and it can be
    accelerated again."""
    model = build(name).train()
    stock = copy.deepcopy(model)
    told = [
        (row.rewrite, row.modules, row.what)
        for row in swin_backbone.accelerate(model, graphs=True).replaced
    ]
    loaded = pickle.loads(pickle.dumps(model))
    images, samples = (
        torch.randn(2, 3, 64, 96),
        detectors.draw_samples(Task(name, 2, "train", (64, 96)), "cpu"),
    )
    assert torch.equal(*(step(one, images, copy.deepcopy(samples), 0) for one in (loaded, stock)))
    again = swin_backbone.accelerate(loaded, graphs=True).replaced
    assert [(row.rewrite, row.modules, row.what) for row in again] == told


def test_heads_that_are_left_out_of_the_graph():
    model = build("mask-rcnn")
    assert dense_head(model)[0] == "rpn_head"
    own = type("OwnHead", (type(model.rpn_head),), {"forward_single": lambda self, x: (x, x)})
    model.rpn_head.__class__ = own
    assert dense_head(model) is None
    assert dense_head(build("dino")) is None


def test_a_head_in_the_graph_is_told():
    model = build("mask-rcnn")
    report = swin_backbone.accelerate(model, graphs=True)
    told = [
        row for row in report.replaced if (row.rewrite, row.modules) == ("graphs", ("rpn_head",))
    ]
    assert "in their graph" in told[0].what
    assert "forward" in vars(model.rpn_head)
    report.revert()
    assert "forward" not in vars(model.rpn_head)
    assert "extract_feat" not in vars(model)
