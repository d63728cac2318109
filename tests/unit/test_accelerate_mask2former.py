"""Mask2Former of mmdet and mmseg, accelerated, against the stock classes."""

import copy

import pytest
import torch
from helpers.paths import ROOT
from helpers.small_detector import small_detector
from helpers.waits import COPY, LISTS, waits

import swin_backbone

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

CONFIG = ROOT / "configs" / "swin_det" / "mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py"
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def build_head(**changes):
    register_all_modules(init_default_scope=False)
    config = small_detector(CONFIG).model
    head = config.panoptic_head
    head.update(train_cfg=config.train_cfg, test_cfg=config.test_cfg, num_queries=9)
    head.num_things_classes = 5
    head.num_stuff_classes = 0
    head.loss_cls.class_weight = [1.0, 0.7, 1.0, 2.0, 0.5, 0.1]
    for name, value in changes.items():
        part, _, key = name.partition("__")
        head[part][key] = value
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(head).train()


def accelerated(head):
    fast = copy.deepcopy(head)
    report = swin_backbone.accelerate(fast)
    assert "mask_losses" in {row.rewrite for row in report.replaced}
    return fast, report


@pytest.fixture
def double(monkeypatch):
    """All in float64, what mmdet makes float32 included."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def objects_of(counts, device="cpu", rows=24, columns=40):
    return [
        InstanceData(
            labels=torch.randint(5, (count,), device=device),
            masks=(torch.rand(count, rows, columns, device=device) < 0.4).long(),
        )
        for count in counts
    ]


def losses_of(head, objects, layers=3, device="cpu", seed=0):
    torch.manual_seed(seed)
    shape = (len(objects), head.num_queries)
    scores = [torch.randn(*shape, 6, device=device, requires_grad=True) for _ in range(layers)]
    masks = [3 * torch.randn(*shape, 6, 10, device=device) for _ in range(layers)]
    masks = [one.requires_grad_() for one in masks]
    losses = head.loss_by_feat(scores, masks, objects, [{}] * len(objects))
    grads = torch.autograd.grad(sum(value.sum() for value in losses.values()), [*scores, *masks])
    return {name: value.detach() for name, value in losses.items()}, grads, torch.rand(3)


CHANGES = {
    "as configured": {},
    "no random points": {"train_cfg__importance_sample_ratio": 1.0},
    "random points alone": {"train_cfg__importance_sample_ratio": 0.0},
    "squares": {"loss_dice__naive_dice": False},
}


@pytest.mark.parametrize("counts", [(3, 2), (0, 4), (9, 1, 5), (0, 0), (12, 2)], ids=str)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_losses(double, counts, change):
    """Of every layer, in float64: with objects in some images, in none, more than queries."""
    stock = build_head(**change)
    fast, report = accelerated(stock)
    objects = objects_of(counts)
    expected, gradients, after = losses_of(stock, copy.deepcopy(objects))
    losses, found, now = losses_of(fast, objects)
    assert list(losses) == list(expected)
    for name, value in losses.items():
        assert value.shape == expected[name].shape
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-10, msg=name)
    torch.testing.assert_close(found, gradients, rtol=1e-10, atol=1e-12)
    assert torch.equal(now, after)  # as many random numbers were drawn
    other, _, _ = losses_of(fast, objects, seed=1)
    assert not torch.equal(other["loss_mask"], losses["loss_mask"]) or not sum(counts)
    report.revert()
    assert "loss_by_feat" not in fast.__dict__


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_under_autocast(device, dtype, monkeypatch):
    """The same but for roundings. In 16 bits mmdet's costs are rounded, and matches may be others:
    here it matches by costs in float32, as the accelerated head does."""
    stock = build_head().to(device)
    fast, _ = accelerated(stock)
    assign = stock.assigner.assign

    def assign_in_float32(pred_instances, **others):
        wide = {name: value.float() for name, value in pred_instances.items()}
        with torch.autocast(device, enabled=False):
            return assign(pred_instances=InstanceData(**wide), **others)

    monkeypatch.setattr(stock.assigner, "assign", assign_in_float32)
    objects = objects_of((4, 2), device)
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        expected, _, _ = losses_of(stock, copy.deepcopy(objects), device=device)
        losses, _, _ = losses_of(fast, objects, device=device)
    tolerance = 1e-4 if dtype == torch.float32 else 0.2
    torch.testing.assert_close(losses, expected, rtol=tolerance, atol=tolerance)


def test_the_host_hardly_waits():
    """For costs alone, whose copy to the host is none on a CPU."""
    stock = build_head()
    fast, _ = accelerated(stock)
    objects = objects_of((4, 2))
    assert waits(lambda: losses_of(stock, objects), but=(COPY,)) > 20
    assert waits(lambda: losses_of(fast, objects), but=(COPY,)) == 0


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"loss_mask__class_weight": 2.0}, "weights"),
        ({"loss_dice__reduction": "sum"}, "loss_dice"),
        (
            {
                "train_cfg__assigner": {
                    "type": "HungarianAssigner",
                    "match_costs": [{"type": "FocalLossCost"}],
                }
            },
            "FocalLossCost",
        ),
    ],
)
def test_other_losses_are_left(change, word):
    rows = swin_backbone.accelerate(build_head(**change)).left
    assert any(word in row.reason for row in rows if row.rewrite == "mask_losses")


def test_a_loss_that_is_watched_is_called():
    head, _ = accelerated(build_head())
    seen = []
    head.loss_dice.register_forward_hook(lambda *_: seen.append(1))
    losses_of(head, objects_of((3, 2)))
    assert len(seen) == 3


@pytest.mark.parametrize("device", DEVICES)
def test_attention_masks(device):
    """The same scores, masks and attention masks, also where a mask is nearly zero."""
    stock = build_head().to(device)
    fast, report = accelerated(stock)
    assert "attention_masks" in {row.rewrite for row in report.replaced}
    channels = stock.decoder_embed_dims
    out = torch.randn(2, 9, channels, device=device)
    for scale in (1.0, 1e-9):
        features = scale * torch.randn(2, channels, 12, 16, device=device)
        found, expected = (head._forward_head(out, features, (3, 4)) for head in (fast, stock))
        for own, right in zip(found, expected, strict=True):
            assert torch.equal(own, right)
    assert not found[2].all()


@pytest.mark.parametrize("device", DEVICES)
def test_attention_without_weights(device):
    """Of queries that may not look everywhere, in float64, forward and backward."""
    from mmcv.cnn.bricks.transformer import MultiheadAttention

    stock = MultiheadAttention(16, 4, batch_first=True).double().to(device)
    fast = copy.deepcopy(stock)
    report = swin_backbone.accelerate(fast)
    assert {row.rewrite for row in report.replaced} == {"attention_weights"}
    away = torch.rand(8, 5, 7, device=device) < 0.5
    away[..., 0] = False
    results = []
    for module in (stock, fast):
        torch.manual_seed(0)
        query, key = (torch.randn(2, n, 16, dtype=torch.float64, device=device) for n in (5, 7))
        out = module(query.requires_grad_(), key, key, attn_mask=away)
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), query)])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)
    x = torch.randn(5, 2, 16, dtype=torch.float64, device=device)
    assert stock.attn(x, x, x)[1] is not None
    assert fast.attn(x, x, x)[1] is None
    assert fast.attn(x, x, x, need_weights=True)[1] is not None
    report.revert()
    assert fast.attn(x, x, x)[1] is not None


def segmentor():
    from mmengine.registry import MODELS as ALL
    from mmseg.utils import register_all_modules as register_all_of_mmseg

    register_all_of_mmseg(init_default_scope=False)
    config = small_detector(
        ROOT / "configs" / "swin" / "mask2former_swin-t_8xb2-160k_ade20k-512x512.py"
    )
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = ALL.build(config.model)
    model.init_weights()
    return model.eval()


def samples_of(metas):
    from mmseg.structures import SegDataSample

    return [SegDataSample(metainfo=meta) for meta in metas]


@pytest.mark.parametrize("device", DEVICES)
@torch.no_grad()
def test_class_maps_of_queries(device, monkeypatch):
    """Of images of other sizes than the network's input, padded and turned round, in bands of a few
    rows: the stock class maps, but for ties of float32."""
    from swin_backbone.ops import banded_argmax

    monkeypatch.setattr(banded_argmax, "BAND", 150 * 96 * 7)
    stock = segmentor().to(device)
    fast = copy.deepcopy(stock)
    # Of random weights all pixels are of one class.
    scores, masks = torch.randn(3, 12, 151), torch.randn(3, 12, 16, 24)
    queries = [3 * scores.to(device)], [5 * masks.to(device)]
    for model in (stock, fast):
        monkeypatch.setattr(model.decode_head, "forward", lambda maps, samples: queries)
    report = swin_backbone.accelerate(fast)
    assert "predictions" in {row.rewrite for row in report.replaced}
    assert not [row for row in report.left if row.rewrite == "predictions"]
    images = torch.randn(3, 3, 64, 96, device=device)
    size = {"img_shape": (64, 96), "pad_shape": (64, 96)}
    metas = [
        {**size, "ori_shape": (64, 96)},
        {**size, "ori_shape": (101, 50), "flip": True, "flip_direction": "vertical"},
        {**size, "ori_shape": (40, 77), "padding_size": [0, 20, 0, 5]},
    ]
    expected, found = (model.predict(images, samples_of(metas)) for model in (stock, fast))
    for own, right, meta in zip(found, expected, metas, strict=True):
        assert own.pred_sem_seg.data.shape == (1, *meta["ori_shape"])
        assert (own.pred_sem_seg.data == right.pred_sem_seg.data).float().mean() > 0.999
        assert len(own.pred_sem_seg.data.unique()) > 1
        assert "seg_logits" not in own
    fast.test_cfg["keep_logits"] = True
    assert "seg_logits" in fast.predict(images, samples_of(metas))[0]
    report.revert()
    assert "predict" not in fast.__dict__


@pytest.mark.parametrize("device", DEVICES)
def test_the_pixel_decoder(device, monkeypatch):
    """The same maps for several sizes, and no wait for those."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    stock = build_head().pixel_decoder.to(device)
    fast = copy.deepcopy(stock)
    report = swin_backbone.accelerate(fast, deformable_attention=False)
    assert "pixel_decoders" in {row.rewrite for row in report.replaced}
    for rows, columns in ((16, 24), (24, 40), (16, 24)):
        maps = [
            torch.randn(2, channels, rows >> i, columns >> i, device=device)
            for i, channels in enumerate((8, 16, 32, 64))
        ]
        (found, levels), (expected, others) = fast(maps), stock(maps)
        torch.testing.assert_close([found, *levels], [expected, *others], rtol=1e-5, atol=1e-5)
    swin_backbone.accelerate(fast)
    assert waits(lambda: fast(maps), but=(COPY, LISTS)) == 0
    assert waits(lambda: stock(maps), but=(COPY, LISTS)) > 10
    report.revert()
    assert "forward" not in fast.__dict__
