"""What the model statistics count, and that docs/model_zoo.md says it."""

from __future__ import annotations

import pytest
from helpers.paths import ROOT, TOOLS
from helpers.tools import load_tool
from torch import nn

from swin_backbone import SwinBackbone

pytest.importorskip("mmseg")


model_stats = pytest.importorskip("swin_backbone.openmmlab.model_statistics")
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(TOOLS)  # its neighbours are imported by name
    model_zoo = load_tool("model_zoo")


class Predictor(nn.Module):
    """A model that takes ``mode`` as segmentors do."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images, mode):
        return self.model(images)


@pytest.mark.parametrize(("size", "padded"), [((32, 32), 64), ((20, 32), 64), ((32, 36), 96)])
def test_flops_follow_the_formula_of_the_paper(size, padded):
    """Equation 2: 4 hw C^2 + 2 M^2 hw C for attention in windows, the second part with padding."""
    channels, window = 32, 4
    backbone = SwinBackbone(
        embed_dims=channels,
        depths=(1,),
        num_heads=(2,),
        strides=(4,),
        window_size=window,
        out_indices=(0,),
    )
    tokens = size[0] // 4 * size[1] // 4
    embedding = tokens * channels * 3 * 4 * 4
    attention = 4 * tokens * channels**2 + 2 * window**2 * padded * channels
    mlp = 2 * tokens * channels * 4 * channels
    counted = model_stats.count_flops(Predictor(backbone).to("meta"), size)
    assert counted == embedding + attention + mlp


@pytest.mark.parametrize(
    ("config", "test", "published"),
    [
        ("tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512", (512, 2048), 945),
        ("small-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512", (512, 2048), 1038),
        ("base-patch4-window7-in22k-pre_upernet_8xb2-160k_ade20k-640x640", (640, 2560), 1841),
    ],
)
def test_flops_are_near_the_published_number(config, test, published):
    stats = model_stats.measure(ROOT / "configs" / "swin" / f"swin-{config}.py")
    assert stats.test == test
    assert stats.test_flops / 1e9 == pytest.approx(published, rel=0.015)


@pytest.mark.parametrize(
    ("config", "published"),
    [
        ("mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco", 267),
        ("mask-rcnn_swin-s-p4-w7_fpn_ms-crop-3x_coco", 359),
        ("cascade-mask-rcnn_swin-b-p4-w7_fpn_ms-crop-3x_coco", 982),
    ],
)
def test_flops_of_detectors_are_near_the_published_number(config, published):
    pytest.importorskip("mmdet")
    stats = model_stats.measure(ROOT / "configs" / "swin_det" / f"{config}.py")
    assert stats.test_flops / 1e9 == pytest.approx(published, rel=0.03)


@pytest.mark.slow
def test_what_lists_the_configs_is_up_to_date():
    stats = [model_stats.measure(path) for path in model_zoo.find_configs()]
    for path, text in model_zoo.renewed(stats).items():
        assert path.read_text() == text, f"{path}; run: python tools/model_zoo.py"


def test_table_replaces_what_stands_between_the_markers():
    begin, end = model_zoo.BEGIN, model_zoo.END
    assert model_zoo.replace_table(f"a\n{begin}\nold\n{end}\nz", "new") == (
        f"a\n{begin}\nnew\n{end}\nz"
    )


@pytest.mark.parametrize("present", [[], ["BEGIN"], ["BEGIN", "BEGIN", "END"]])
def test_markers_must_be_there_once(present):
    document = "\n".join(getattr(model_zoo, name) for name in present)
    with pytest.raises(ValueError, match=r"the document must hold .* once"):
        model_zoo.replace_table(document, "new")
