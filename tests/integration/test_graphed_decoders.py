"""DINO's decoder by graphs that steps with other numbers of objects share."""

import copy
import io

import pytest
import torch
from benchmarking import detectors
from benchmarking.segmentors import Task
from helpers.detector_steps import assert_same_gradients, build, counted, step
from helpers.graph_recorders import RunsAgain

import swin_backbone
from swin_backbone.acceleration import mmdet_graphed_decoder
from swin_backbone.graphs import graphed_backbones

pytest.importorskip("mmdet")
pytest.importorskip("torchvision")

TASK = Task("dino", 2, "train", (64, 96))
#: Of noised queries, in these tests.
NOISED = 10


@pytest.fixture(autouse=True)
def in_float64(monkeypatch):
    """As sums over more keys round otherwise, and a rounding decides on which side of a kink a
    point lies. mmdet encodes positions in float32."""
    from mmdet.models.layers import SinePositionalEncoding

    encode = SinePositionalEncoding.forward
    monkeypatch.setattr(
        SinePositionalEncoding, "forward", lambda *a, **options: encode(*a, **options).double()
    )
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def graph(model):
    """As it is on a card, by a recorder that runs again."""
    return mmdet_graphed_decoder.apply(model, record_on=lambda device: RunsAgain())


def pair():
    """An accelerated detector, and one that is to be graphed."""
    model = build("dino").double().train()
    model.dn_query_generator.num_dn_queries = NOISED
    other = copy.deepcopy(model)
    for one in (model, other):
        swin_backbone.accelerate(one)
    return model, other


def images_with(*objects):
    images, samples = torch.randn(2, 3, 64, 96), detectors.draw_samples(TASK, "cpu")
    for sample, count in zip(samples, objects, strict=True):
        sample.gt_instances = sample.gt_instances[:count]
        sample.gt_instances.bboxes = sample.gt_instances.bboxes.double()
    return images, samples


def test_steps_are_those_without_graphs():
    """Losses and gradients, with few objects and many, none in one image, and none at all."""
    stock, model = pair()
    undo = graph(model)
    (graphs,) = graphed_backbones(model)
    called = []
    layer = model.decoder.layers[0]
    layer.forward = counted(layer.forward, called)
    batches = [(3, 2), (12, 5), (1, 0), (12, 12), (NOISED, 1), (0, 0), (7, 7)]
    for seed, objects in enumerate(batches):
        images, samples = images_with(*objects)
        losses = [step(one, images, copy.deepcopy(samples), seed) for one in (model, stock)]
        torch.testing.assert_close(*losses, rtol=1e-9, atol=1e-9)
        assert_same_gradients(model, stock, 1e-8)
    assert (graphs.reason, graphs.shapes) == (None, 2)  # of up to ten objects, and of more
    before = len(called)
    step(model, *images_with(4, 9), 0)
    assert len(called) - before == 1  # a replay, which runs again here, and no more
    undo()
    assert not {"forward", "run_layers", mmdet_graphed_decoder.KNOWN} & vars(model.decoder).keys()


def test_predictions_are_those_without_graphs():
    stock, model = pair()
    graph(model)
    for _ in range(3):
        images, samples = images_with(3, 3)
        with torch.no_grad():
            found, expected = (
                one.eval().predict(images, copy.deepcopy(samples), rescale=False)
                for one in (model, stock)
            )
        for ours, other in zip(found, expected, strict=True):
            assert torch.equal(ours.pred_instances.bboxes, other.pred_instances.bboxes)
            assert torch.equal(ours.pred_instances.scores, other.pred_instances.scores)
    assert [one.shapes for one in graphed_backbones(model)] == [1]


@pytest.mark.parametrize("groups", ["dynamic", "static"])
@pytest.mark.parametrize("objects", [0, 1, 3, 11])
def test_what_is_added_is_seen_by_none(groups, objects, monkeypatch):
    """Results and all gradients are the stock decoder's in float64, to 1e-11 of the largest: sums
    over more keys round otherwise."""
    monkeypatch.setattr(mmdet_graphed_decoder, "NOISED", 24)
    model = build("dino").double().train()
    generator = model.dn_query_generator
    generator.num_dn_queries = NOISED
    if groups == "static":
        generator.dynamic_dn_groups, generator.num_groups = False, 2
        del generator.num_dn_queries
    stock = copy.deepcopy(model)
    graph(model)
    images, samples = images_with(objects, objects // 2)
    found = []
    for one in (model, stock):
        torch.manual_seed(0)
        maps = one.extract_feat(images)
        got = one.forward_transformer(maps, copy.deepcopy(samples))
        states = got["hidden_states"]
        torch.manual_seed(1)
        total = (states * torch.randn_like(states)).sum()
        total = total + sum((x * torch.randn_like(x)).sum() for x in got["references"][1:])
        parameters = [p for p in one.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        found.append([states.detach(), *got["references"], *gradients])
    for ours, other in zip(*found, strict=True):
        assert (ours is None) == (other is None)
        if ours is not None:
            torch.testing.assert_close(
                ours, other, rtol=0, atol=1e-11 * (1 + other.abs().max().item())
            )


def test_other_uses_of_the_decoder_are_the_stock_ones():
    """In a copy; with other layers that refine boxes; in what was pickled."""
    stock, model = pair()
    graph(model)
    copied = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    model.bbox_head.reg_branches = copy.deepcopy(model.bbox_head.reg_branches)
    for seed in range(3):
        images, samples = images_with(3, 2)
        expected = step(stock, images, copy.deepcopy(samples), seed)
        for one in (model, copied, loaded):
            torch.testing.assert_close(step(one, images, copy.deepcopy(samples), seed), expected)
    assert [one.shapes for one in graphed_backbones(model)] == [0]


def test_what_is_told(monkeypatch):
    def told(model, graphs=True):
        report = swin_backbone.accelerate(model, graphs=graphs)
        rows = [row for row in (*report.replaced, *report.left) if row.rewrite == "graphs"]
        assert len(rows) == len({row.modules for row in rows})
        return report, {row.modules[0]: row for row in rows}

    model = build("dino")
    report, rows = told(model)
    assert rows["decoder"].what == mmdet_graphed_decoder.WHAT
    assert "already" in told(model)[1]["decoder"].reason
    report.revert()
    assert mmdet_graphed_decoder.KNOWN not in vars(model.decoder)
    own = build("dino")
    own.decoder.__class__ = type("Own", (type(own.decoder),), {"forward": lambda self, **kw: None})
    assert "has a forward of its own" in told(own)[1]["decoder"].reason
