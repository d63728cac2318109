"""Denoising queries of mmdet's DINO, made without a wait, against the stock generator."""

import copy

import pytest
import torch
from helpers.detector_steps import build
from helpers.waits import places_of_waits

import swin_backbone
from swin_backbone.acceleration import mmdet_denoising_queries

pytest.importorskip("mmdet")

from mmdet.models.layers.transformer.dino_layers import CdnQueryGenerator
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
COUNTS = [(3, 2), (0, 4), (1,), (2, 0, 5), (0, 0), (120, 3)]
#: So many that some label gets noise: where none does, the stock generator draws none.
GROUPS = [{"dynamic": True, "num_dn_queries": 100}, {"dynamic": False, "num_groups": 30}]


class OwnGenerator(CdnQueryGenerator):
    def generate_dn_mask(self, *args, **kwargs):
        return super().generate_dn_mask(*args, **kwargs).logical_not()


def samples_of(counts, device="cpu", kind=torch.as_tensor):
    found = []
    for index, count in enumerate(counts):
        rows, columns = 40 + 8 * index, 61 + 3 * index
        corner = torch.rand(count, 2) * 0.6
        boxes = torch.cat([corner, corner + 0.05 + 0.3 * torch.rand(count, 2)], 1)
        boxes = (boxes * torch.tensor([columns, rows] * 2)).to(device)
        labels = torch.randint(9, (count,), device=device)
        sample = DetDataSample(metainfo={"img_shape": (rows, columns)})
        sample.gt_instances = InstanceData(bboxes=kind(boxes), labels=labels)
        found.append(sample)
    return found


def outcome(function, generator, samples, seed):
    """Queries, mask and numbers, and the gradient of the labels' embedding."""
    torch.manual_seed(seed)
    labels, boxes, mask, meta = function(samples)
    after = torch.rand(3, device=labels.device)  # further draws
    # Whole numbers: a GPU adds up rows of the same label in any order.
    weight = torch.arange(labels.numel(), device=labels.device).view_as(labels) % 17 - 8
    (grad,) = torch.autograd.grad((labels * weight).sum(), [generator.label_embedding.weight])
    return [labels, boxes, mask, grad, after], meta


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("groups", GROUPS, ids=["dynamic", "fixed"])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_queries_are_those_of_the_stock_generator(counts, groups, device):
    """The same bits for the same seed."""
    generator = CdnQueryGenerator(9, 16, 11, group_cfg=groups).to(device)
    samples, seed = samples_of(counts, device), torch.initial_seed()
    expected, meta = outcome(generator, generator, samples, seed)
    ours = lambda batch: mmdet_denoising_queries.denoising_queries(generator, batch)  # noqa: E731
    found, own_meta = outcome(ours, generator, samples, seed)
    assert own_meta == meta
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("counts", [1, 7, 40])
def test_labels_with_noise(counts, monkeypatch):
    """As a GPU draws them: the first numbers of a long draw are those of a short one."""
    generator = CdnQueryGenerator(9, 16, 11, group_cfg=GROUPS[1], label_noise_scale=1.2)
    long = torch.randint(9, (1000,))
    monkeypatch.setattr(torch, "randint_like", lambda one, low, high: long[: one.numel()])
    generator.label_embedding = torch.nn.Identity()
    labels, seed = torch.randint(9, (counts,)), torch.initial_seed()
    torch.manual_seed(seed)
    expected = generator.generate_dn_label_query(labels, 3)
    torch.manual_seed(seed)
    found = mmdet_denoising_queries.noisy_labels(generator, labels, 3)
    assert torch.equal(found, expected)


def test_nothing_waits_but_the_draw_of_a_cpu():
    generator, samples = CdnQueryGenerator(9, 16, 11, group_cfg=GROUPS[0]), samples_of((3, 2))
    stock = places_of_waits(lambda: generator(samples))
    ours = places_of_waits(lambda: mmdet_denoising_queries.denoising_queries(generator, samples))
    assert sum(stock.values()) > 20
    named = [place for place in ours if "mmdet_denoising_queries" not in place]
    assert len(named) == 1, named  # which labels get noise, asked by the class's own
    assert "generate_dn_label_query" in named[0]


def replaced(model):
    return {row.rewrite for row in swin_backbone.accelerate(model).replaced}


def test_the_generator_stays_a_module_of_the_model():
    model = build("dino").train()
    keys, stock = list(model.state_dict()), copy.deepcopy(model)
    report = swin_backbone.accelerate(model, query_losses=False, positional_encodings=False)
    assert "denoising_queries" in {row.rewrite for row in report.replaced}
    images, samples = torch.randn(2, 3, 64, 96), samples_of((3, 2))
    for sample in samples:
        sample.set_metainfo({"batch_input_shape": (64, 96), "img_shape": (64, 96)})
    losses = []
    for one in (stock, model):
        torch.manual_seed(0)
        losses.append(one.loss(images, copy.deepcopy(samples)))
        assert type(one.dn_query_generator) is CdnQueryGenerator
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, rtol=1e-5, atol=1e-5)
    assert list(model.state_dict()) == keys
    report.revert()
    assert "pre_decoder" not in vars(model)


def test_what_is_left_to_the_stock_generator():
    model = build("dino").train()
    model.dn_query_generator = OwnGenerator(9, 16, 11, group_cfg=GROUPS[0])
    assert "denoising_queries" not in replaced(model)
    generator = CdnQueryGenerator(9, 16, 11, group_cfg=GROUPS[0])
    samples = samples_of((3, 2), kind=HorizontalBoxes)
    with pytest.raises(TypeError):  # the class's error: it wants tensors
        mmdet_denoising_queries.denoising_queries(generator, samples)
