"""Rewrites of detectors where tensors lie on a GPU: what they make lies there, too.

Tensors hold nothing here, but an operator of tensors on two devices is an error, as on a GPU.
"""

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.pretended_gpu import move, pretended_gpu
from helpers.small_detector import small_detector

import swin_backbone
from swin_backbone.acceleration import mmdet_query_losses

pytest.importorskip("mmdet")

from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

CONFIG = ROOT / "configs" / "swin_det" / "dino-4scale_swin-t-p4-w7_8xb2-12e_coco.py"
SIZES = [(16, 24), (8, 12), (4, 6), (2, 3)]
PADDED = (128, 192)


@pytest.fixture
def dino(monkeypatch):
    """Accelerated, on the CPU; what is pinned for a copy stays as it is."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda one: one)
    # Of a tensor that is there; the one that holds nothing has none.
    monkeypatch.setattr(torch, "_shape_as_tensor", lambda one: torch.tensor(one.shape))
    register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(small_detector(CONFIG).model)
    report = swin_backbone.accelerate(model)
    expected = {"query_losses", "feature_sizes", "positional_encodings"}
    assert expected <= {row.rewrite for row in report.replaced}
    return model.train()


def matched(costs):
    """Some query for each object: costs hold nothing."""
    pairs = []
    for cost in costs:
        assert cost.device.type == "cuda"
        layers, queries, objects = cost.shape
        rows = np.tile(np.arange(min(queries, objects)), (layers, 1))
        pairs.append((rows, rows.copy()))
    return pairs


@pytest.mark.parametrize("counts", [(3, 2), (0, 4), (0, 0)], ids=str)
def test_losses(dino, counts, monkeypatch):
    monkeypatch.setattr(mmdet_query_losses, "matched", matched)
    head = dino.bbox_head
    noised, metas = 2 * max(counts), [{"img_shape": PADDED}] * len(counts)
    with pretended_gpu(monkeypatch):
        made = {"device": "cuda"}
        labels = [torch.zeros(n, dtype=torch.long, **made) for n in counts]
        objects = [
            InstanceData(labels=one, bboxes=torch.rand(len(one), 4, **made)) for one in labels
        ]
        maps = [
            torch.rand(*shape, channels, **made)
            for shape in ((2, len(counts), noised + 7), (len(counts), 7))
            for channels in (head.cls_out_channels, 4)
        ]
        meta = {"num_denoising_queries": noised, "num_denoising_groups": 1}
        losses = head.loss_by_feat(*maps, objects, metas, meta)
    assert len(losses) == 3 * 5
    assert {loss.device.type for loss in losses.values()} == {"cuda"}


@pytest.mark.parametrize("shape", [PADDED, (100, 150)], ids=["whole", "padded"])
def test_maps_points_and_proposals(dino, shape, monkeypatch):
    meta = {"img_shape": shape, "batch_input_shape": PADDED}
    samples = [DetDataSample(metainfo=meta) for _ in range(2)]
    with pretended_gpu(monkeypatch):
        move(dino)
        for _ in range(2):  # what is kept from the first
            maps = [torch.rand(2, 256, *size, device="cuda") for size in SIZES]
            given, _ = dino.pre_transformer(maps, samples)
            sizes, feat = given["spatial_shapes"], given["feat"]
            points = dino.encoder.get_encoder_reference_points(
                sizes, given["valid_ratios"], feat.device
            )
            found = dino.gen_encoder_output_proposals(feat, given["feat_mask"], sizes)
            parts = [points, *found, given["feat_pos"], sizes]
            assert {part.device.type for part in parts} == {"cuda"}
