"""Modules of multi-scale deformable attention, accelerated, against the stock classes."""

import copy
import importlib
import inspect

import pytest
import torch
from torch import nn

import swin_backbone  # lets mmcv.ops import
from swin_backbone import ops

SHAPES, KEYS = ((5, 4), (3, 2)), 26


def inputs(channels=16, queries=7):
    query, value = torch.randn(2, queries, channels), torch.randn(2, KEYS, channels)
    mask = torch.rand(2, KEYS) < 0.2
    points = torch.rand(2, queries, len(SHAPES), 2)
    return [x.double() if x.is_floating_point() else x for x in (query, value, mask, points)]


def of_mmcv():
    pytest.importorskip("mmcv")
    stock = importlib.import_module("mmcv.ops").MultiScaleDeformableAttention
    module = stock(16, num_heads=2, num_levels=2, num_points=3, batch_first=True, dropout=0.0)

    def run(module, query, value, mask, points):
        shapes = torch.tensor(SHAPES)
        return module(
            query, value=value, residual=2 * query, key_padding_mask=mask, reference_points=points,
            spatial_shapes=shapes, level_start_index=torch.tensor([0, 20]),
        )  # fmt: skip

    return module, run


def of_transformers(name, attention, **config):
    def make():
        pytest.importorskip("transformers")
        file = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
        stock = getattr(file, attention)
        if config:
            kind = importlib.import_module(f"transformers.models.{name}")
            options = getattr(kind, config["config"])(d_model=16, num_feature_levels=2)
            module = stock(options, num_heads=2, n_points=3)
        else:
            module = stock(16, 2, 2, 3)

        known = inspect.signature(stock.forward).parameters

        def run(module, query, value, mask, points):
            shapes = {
                "spatial_shapes": torch.tensor(SHAPES),
                "spatial_shapes_list": list(SHAPES),
            }
            return module(
                query, attention_mask=~mask if config else mask, encoder_hidden_states=value,
                reference_points=points, level_start_index=torch.tensor([0, 20]),
                **{name: given for name, given in shapes.items() if name in known},
            )[0]  # fmt: skip

        return module, run

    return make


class MSDeformAttnFunction(torch.autograd.Function):
    """As in a repository that has compiled it: here it cannot run."""

    @staticmethod
    def forward(ctx, value, shapes, starts, locations, weights, im2col_step):
        raise AssertionError("compiled code is called")


class MSDeformAttn(nn.Module):
    """What detectron2's models have: another file's function under this name."""

    def __init__(self):
        super().__init__()
        self.value_proj, self.output_proj = nn.Linear(16, 16), nn.Linear(16, 16)
        self.sampling_offsets, self.attention_weights = nn.Linear(16, 24), nn.Linear(16, 12)

    def forward(self, query, points, value, shapes, starts, mask=None):
        value = self.value_proj(value).masked_fill(mask[..., None], 0.0)
        offsets = self.sampling_offsets(query).view(2, -1, 2, 2, 3, 2)
        weights = self.attention_weights(query).view(2, -1, 2, 6).softmax(-1)
        locations = (
            points[:, :, None, :, None] + offsets / shapes.flip(1)[None, None, None, :, None]
        )
        sampled = MSDeformAttnFunction.apply(
            value.view(2, -1, 2, 8), shapes, starts, locations, weights.view(2, -1, 2, 2, 3), 64
        )
        return self.output_proj(sampled)


def of_detectron2():
    def run(module, query, value, mask, points):
        return module(query, points, value, torch.tensor(SHAPES), torch.tensor([0, 20]), mask)

    return MSDeformAttn(), run


WITH_CONFIG = {
    "deformable_detr": ("DeformableDetrMultiscaleDeformableAttention", "DeformableDetrConfig"),
    "grounding_dino": ("GroundingDinoMultiscaleDeformableAttention", "GroundingDinoConfig"),
}
WITHOUT = {
    "mask2former": "Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention",
    "oneformer": "OneFormerPixelDecoderEncoderMultiscaleDeformableAttention",
}
MODULES = {
    "mmcv": of_mmcv,
    **{n: of_transformers(n, kind, config=config) for n, (kind, config) in WITH_CONFIG.items()},
    **{n: of_transformers(n, kind) for n, kind in WITHOUT.items()},
}


def step(module, run, tensors):
    query, value, mask, points = (x.clone() for x in tensors)
    leaves = [query.requires_grad_(), value.requires_grad_(), *module.parameters()]
    out = run(module, query, value, mask, points)
    grads = torch.autograd.grad(out.square().sum(), leaves)
    return [out.detach(), *grads]


@pytest.fixture
def calls(monkeypatch):
    """Shapes of what our operator was called with."""
    seen, function = [], ops.multi_scale_deformable_attention
    monkeypatch.setattr(
        ops, "multi_scale_deformable_attention",
        lambda value, *others: seen.append(tuple(value.shape)) or function(value, *others),
    )  # fmt: skip
    return seen


@pytest.mark.filterwarnings("ignore:.*residual.*:DeprecationWarning")
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_as_stock(make, calls):
    """float64, forward and backward, with the weights in motion, and back again."""
    module, run = make()
    module = module.double()
    for parameter in module.parameters():  # offsets begin as zeros
        nn.init.normal_(parameter, std=0.3)
    fast, tensors = copy.deepcopy(module), inputs()
    report = swin_backbone.accelerate(fast)
    assert [row.rewrite for row in report.replaced] == ["deformable_attention"]
    expected = step(module, run, tensors)
    assert not calls
    torch.testing.assert_close(step(fast, run, tensors), expected)
    assert calls == [(2, KEYS, 2, 8)]
    assert not swin_backbone.accelerate(fast).replaced  # it stays so
    report.revert()
    assert all(torch.equal(a, b) for a, b in zip(step(fast, run, tensors), expected, strict=True))
    assert len(calls) == 1


def test_compiled_code_that_is_not_there(calls):
    """A module that calls compiled code by its usual name runs without it."""
    module, run = of_detectron2()
    tensors = inputs()
    module = module.double()
    with pytest.raises(AssertionError, match="compiled"):
        step(module, run, tensors)
    report = swin_backbone.accelerate(module)
    assert len(report.replaced) == 1
    assert all(x.isfinite().all() for x in step(module, run, tensors))
    assert calls


@pytest.mark.parametrize("name", ["rt_detr_v2", "d_fine"])
def test_what_is_left(name):
    pytest.importorskip("transformers")
    file = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    prefix = {"rt_detr_v2": "RTDetrV2", "d_fine": "DFine"}[name]
    config = getattr(importlib.import_module(f"transformers.models.{name}"), f"{prefix}Config")
    module = getattr(file, f"{prefix}MultiscaleDeformableAttention")(config())
    (row,) = swin_backbone.accelerate(module).left
    assert "numbers of points" in row.reason


@pytest.mark.filterwarnings("ignore:.*residual.*:DeprecationWarning")
def test_a_copy_calls_its_own_weights():
    module, run = of_mmcv()
    swin_backbone.accelerate(module.double())
    other = copy.deepcopy(module)
    nn.init.normal_(other.output_proj.weight)
    tensors = inputs()
    assert not torch.equal(run(module, *tensors), run(other, *tensors))
