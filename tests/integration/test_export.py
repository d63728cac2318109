"""Exported models: one trace for every batch, height and width."""

import copy
import dataclasses
import importlib.util
import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from swin_backbone import SwinBackbone, create
from swin_backbone.inference.export import (
    ExportedModel,
    ModelCard,
    SegmentorLogits,
    load,
    trace,
    write_program,
)
from swin_backbone.inference.export.exportable_modules import AveragePooling
from swin_backbone.inference.export.trace import example_size

# isort: split
from mmseg.registry import MODELS

from swin_backbone.cli import export as export_tool
from swin_backbone.inference.export_models import backbone_and_card, whole_model_and_card
from swin_backbone.inference.predictors import (
    CheckpointPredictor,
    OnnxPredictor,
    Sliding,
    TooManyWindowsError,
)

DEMO_CONFIG = next((ROOT / "configs" / "demo").glob("swin-demo_upernet_demo-*.py"))

#: Batch, height, width: smaller than a patch, than a window, odd, whole windows, long and thin.
SIZES = [(1, 1, 1), (2, 3, 50), (1, 27, 28), (3, 64, 64), (1, 112, 56), (1, 161, 90), (2, 5, 200)]
#: Of float32, relative to the largest value; sums in another order differ by about 1e-6.
TOLERANCE = 1e-4

BACKBONE = {
    "type": "SwinBackbone",
    "embed_dims": 8,
    "depths": (2, 1),
    "num_heads": (1, 2),
    "strides": (4, 2),
    "out_indices": (0, 1),
}
#: Options of backbones whose trace must serve every size.
VARIANTS = {
    "v1": {},
    "v2": {"version": "v2", "window_size": 4},
    "v1-window-3x5": {"window_size": (3, 5), "qkv_bias": False},
    "v1-absolute-position": {"use_abs_pos_embed": True, "pretrain_img_size": 32},
    "v1-patch-3-stride-3": {"patch_size": 3, "strides": (3, 3), "patch_norm": False},
    "mask-padding-absolute-position": {
        "mask_padding": True,
        "use_abs_pos_embed": True,
        "pretrain_img_size": 32,
        "depths": (1, 1),
    },
}
UPERNET = {
    "decode_head": {
        "type": "UPerHead",
        "in_channels": [8, 16],
        "in_index": [0, 1],
        "pool_scales": (1, 2, 3, 6),
        "channels": 8,
        "num_classes": 3,
        "norm_cfg": {"type": "SyncBN"},
        "align_corners": False,
    }
}
FPN = {
    "neck": {"type": "FPN", "in_channels": [8, 16], "out_channels": 8, "num_outs": 2},
    "decode_head": {
        "type": "FPNHead",
        "in_channels": [8, 8],
        "in_index": [0, 1],
        "feature_strides": [4, 8],
        "channels": 8,
        "num_classes": 3,
        "norm_cfg": {"type": "BN"},
        "align_corners": False,
    },
}
CARD = ModelCard(
    name="test",
    kind="backbone",
    mean=(1.0, 2.0, 3.0),
    std=(4.0, 5.0, 6.0),
    channels="BGR",
    strides=((4, 4), (8, 8)),
    output_channels=(8, 16),
)

needs_onnx = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason="needs the extra 'export'",
)


def randomise(model):
    """Weights large enough that every part of the model shows in its output."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    return model.eval()


def segmentor(parts, **options):
    init_default_scope("mmseg")
    config = {"type": "EncoderDecoder", "backbone": {**BACKBONE, **options}, **parts}
    config |= {"train_cfg": {}, "test_cfg": {"mode": "whole"}}
    return SegmentorLogits(randomise(MODELS.build(config))).eval()


def inputs_of(batch, height, width, with_sizes):
    """Random images, and where padding is masked, the sizes of their valid parts."""
    images = torch.randn(batch, 3, height, width)
    if not with_sizes:
        return (images,)
    sides = [torch.randint(1, side + 1, (batch,)) for side in (height, width)]
    return images, torch.stack(sides, dim=1)


def assert_same_on_other_sizes(model, exported, sizes=SIZES):
    masks = getattr(model, "backbone", model).mask_padding
    for batch, height, width in sizes:
        inputs = inputs_of(batch, height, width, masks)
        with torch.no_grad():
            expected, actual = model(*inputs), exported(*inputs)
        if isinstance(expected, torch.Tensor):
            expected = [expected]
        actual = [actual] if isinstance(actual, torch.Tensor) else actual
        for ours, theirs in zip(expected, actual, strict=True):
            difference = (ours - theirs).abs().max() / ours.abs().max()
            assert difference < TOLERANCE, (batch, height, width)
            assert ours.shape == theirs.shape


@pytest.fixture(scope="module")
def traced():
    """The plain backbone and its trace."""
    torch.manual_seed(0)
    model = randomise(create(BACKBONE))
    return model, trace(model)


@pytest.mark.parametrize(
    "variant",
    [name if name == "v1" else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS],
)
def test_a_trace_serves_every_size(variant, traced):
    if variant == "v1":
        model, program = traced
    else:
        model = randomise(create(BACKBONE, **VARIANTS[variant]))
        program = trace(model)
    assert_same_on_other_sizes(model, program.module())


def test_a_trace_leaves_the_model_as_it_is(traced):
    model, _ = traced
    assert model.stages[0].blocks[0].attn.backend == "auto"
    assert type(model) is SwinBackbone


@needs_onnx
def test_onnx_file_serves_every_size_and_carries_its_card(traced, tmp_path):
    model, program = traced
    exported = load(write_program(program, CARD, tmp_path / "model.onnx", "onnx"))
    assert exported.card == CARD
    assert_same_on_other_sizes(model, exported)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_exported_model_masks_padding(version, tmp_path):
    """Of sizes that come as a second input, or else of whole images."""
    model = randomise(create(BACKBONE, version=version, window_size=4, mask_padding=True))
    program = trace(model)
    assert_same_on_other_sizes(model, program.module())
    exported = load(write_program(program, CARD, tmp_path / "model.onnx", "onnx"))
    assert exported.card == dataclasses.replace(CARD, inputs=("images", "valid_sizes"))
    assert_same_on_other_sizes(model, exported)
    images = torch.randn(1, 3, 37, 41)
    padded = torch.nn.functional.pad(images, (0, 30, 0, 8), value=math.nan)
    for alone, within in zip(
        exported(images), exported(padded, torch.tensor([[37, 41]])), strict=True
    ):
        within = within[:, :, : alone.shape[2], : alone.shape[3]]
        assert (alone - within).abs().max() < TOLERANCE * alone.abs().max()


@pytest.mark.slow
def test_segmentor_that_masks_padding_takes_sizes():
    model = segmentor(FPN, mask_padding=True, depths=(1, 1))
    assert_same_on_other_sizes(model, trace(model).module())


@pytest.mark.parametrize(
    ("inputs", "sizes", "error", "message"),
    [
        (("images",), torch.tensor([[4, 4]]), ValueError, "exported with mask_padding=True"),
        (("images", "valid_sizes"), torch.tensor([[4.0, 4]]), TypeError, "must be integers"),
        (("images", "valid_sizes"), torch.tensor([4, 4]), ValueError, r"must be \(1, 2\), got"),
    ],
)
def test_wrong_sizes_are_named(inputs, sizes, error, message):
    exported = ExportedModel(dataclasses.replace(CARD, inputs=inputs), lambda *inputs: [])
    with pytest.raises(error, match=message):
        exported(torch.zeros(1, 3, 8, 8), sizes)


def test_torch_export_file_serves_every_size_and_carries_its_card(traced, tmp_path):
    model, program = traced
    exported = load(write_program(program, CARD, tmp_path / "model.pt2", "torch-export"))
    assert exported.card == CARD
    assert_same_on_other_sizes(model, exported)


@pytest.mark.parametrize("window_size", [7, 3, 12, (2, 9), 1])
def test_example_has_to_be_padded_at_every_step(window_size):
    model = create(BACKBONE, window_size=window_size)
    rows, columns = model.window_sizes[0]
    for size, window in zip(example_size(model), (rows, columns), strict=True):
        for stride in (4, 2):
            assert size % stride != 0
            size = math.ceil(size / stride)
            assert size > window
            assert window == 1 or size % window != 0


@pytest.mark.slow
def test_aot_inductor_file_serves_every_size_and_carries_its_card(tmp_path):
    one_stage = {"depths": (2,), "num_heads": (1,), "strides": (4,), "out_indices": (0,)}
    model = randomise(create(BACKBONE, window_size=3, **one_stage))
    exported = load(write_program(trace(model), CARD, tmp_path / "model.pt2", "aot-inductor"))
    assert exported.card == CARD
    assert_same_on_other_sizes(model, exported)


@needs_onnx
@pytest.mark.slow
def test_fpn_as_onnx_serves_every_size(tmp_path):
    model = segmentor(FPN)
    exported = load(write_program(trace(model), CARD, tmp_path / "model.onnx", "onnx"))
    assert_same_on_other_sizes(model, exported)


@pytest.fixture(scope="module")
def upernet(tmp_path_factory):
    """Config, checkpoint and ONNX file of a small UPerNet, with the module that was exported."""
    folder = tmp_path_factory.mktemp("upernet")
    (folder / "config.py").write_text(
        f"_base_ = ['{DEMO_CONFIG}']\n"
        f"model = dict(backbone={BACKBONE!r},\n"
        "    decode_head=dict(in_channels=[8, 16], in_index=[0, 1], channels=16))\n"
        "test_pipeline = [dict(type='LoadImageFromFile'),\n"
        "    dict(type='Resize', scale=(120, 80), keep_ratio=True), dict(type='PackSegInputs')]\n"
    )
    init_default_scope("mmseg")
    torch.manual_seed(0)
    model = randomise(MODELS.build(Config.fromfile(folder / "config.py").model))
    torch.save({"state_dict": model.state_dict(), "meta": {}}, folder / "checkpoint.pth")
    config, checkpoint = str(folder / "config.py"), str(folder / "checkpoint.pth")
    logits, card = whole_model_and_card(config, checkpoint)
    path = write_program(trace(logits), card, folder / "model.onnx", "onnx")
    return config, checkpoint, str(path), logits


@pytest.mark.slow
@needs_onnx
def test_upernet_as_onnx_serves_every_size(upernet):
    _, _, path, logits = upernet
    assert_same_on_other_sizes(logits, load(path))


def test_settings_of_a_backbone_may_be_changed():
    options = {"model.backbone.mask_padding": True, "model.backbone.depths": (1, 1, 1, 1)}
    model, card = backbone_and_card(
        "swin_tiny_window7", None, {**options, "model.backbone.arch": None}
    )
    assert (model.mask_padding, model.depths) == (True, (1, 1, 1, 1))
    assert card.output_channels == (96, 192, 384, 768)


@pytest.mark.slow
@needs_onnx
def test_card_of_a_segmentor_comes_from_its_config(upernet):
    card = load(upernet[2]).card
    cfg = Config.fromfile(upernet[0])
    assert (card.kind, card.channels, card.strides) == ("segmentor", "RGB", ((1, 1),))
    assert card.mean == pytest.approx(cfg.model.data_preprocessor.mean)
    assert card.classes == tuple(cfg.metainfo.classes)
    assert card.palette == tuple(map(tuple, cfg.metainfo.palette))
    assert (card.resize, card.keep_aspect) == ((120, 80), True)


@pytest.mark.slow
@needs_onnx
def test_windows_of_an_onnx_file_are_bounded(upernet):
    predictor = OnnxPredictor(upernet[2], Sliding("always", 2))
    with pytest.raises(TooManyWindowsError, match="--window 2 would cut 96x72 pixels into"):
        predictor.labels(np.zeros((72, 96, 3), np.uint8))


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize("slide", ["never", "always"])
def test_labels_of_an_onnx_file_are_those_of_its_checkpoint(slide, upernet):
    """Through each one's whole pipeline: resizing, normalisation, windows, scores at full size."""
    config, checkpoint, path, _ = upernet
    sliding = Sliding(slide, window=48)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)
    image = cv2.resize(pixels, (171, 123), interpolation=cv2.INTER_CUBIC)
    ours = OnnxPredictor(path, sliding).labels(image)
    theirs = CheckpointPredictor(config, checkpoint, "cpu", sliding).labels(image)
    assert ours.shape == theirs.shape == (123, 171)
    assert len(np.unique(theirs)) > 1
    assert (ours == theirs).mean() > 0.999  # ties between classes may fall either way


def test_segmentor_logits_are_those_of_mmseg():
    model = segmentor(UPERNET)
    init_default_scope("mmseg")
    config = {"type": "EncoderDecoder", "backbone": BACKBONE, **UPERNET}
    config |= {"train_cfg": {}, "test_cfg": {"mode": "whole"}}
    theirs = MODELS.build(config).eval()
    theirs.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 37, 60)
    meta = {"ori_shape": (37, 60), "img_shape": (37, 60), "pad_shape": (37, 60)}
    with torch.no_grad():
        expected = theirs.encode_decode(images, [meta, meta])
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (7, 5), (13, 40)])
@pytest.mark.parametrize("cells", [(1, 1), (6, 6), (2, 3)])
def test_average_pooling_is_adaptive_pooling(size, cells):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = nn.AdaptiveAvgPool2d(cells)(x)
    torch.testing.assert_close(AveragePooling(cells)(x), expected, rtol=1e-12, atol=1e-12)


def test_normalise_follows_the_card():
    exported = ExportedModel(CARD, run=lambda images: [images])
    pixels = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1)  # RGB
    expected = [(30 - 1) / 4, (20 - 2) / 5, (10 - 3) / 6]  # BGR
    assert exported.normalise(pixels).flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "file_format", "message"),
    [
        ("model.pt2", "onnx", "must end in '.onnx'"),
        ("model.onnx", "torch-export", "must end in '.pt2'"),
        ("model.onnx", "tflite", "file_format must be one of"),
    ],
)
def test_formats_and_suffixes_are_checked(name, file_format, message, traced, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_program(traced[1], CARD, tmp_path / name, file_format)


def test_files_that_are_no_exported_model_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.pt2"):
        load(tmp_path / "missing.pt2")
    (tmp_path / "text.pt2").write_text("no model")
    with pytest.raises(ValueError, match=r"neither an \.onnx nor a \.pt2"):
        load(tmp_path / "text.pt2")
    with pytest.raises(ValueError, match=r"m\.onnx has no model card"):
        ModelCard.from_metadata({"producer": "other"}, "m.onnx")


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "x"}'])
def test_a_damaged_card_is_named(text):
    metadata = {"swin_backbone.model_card": text}
    with pytest.raises(ValueError, match=r"m\.onnx has a damaged model card"):
        ModelCard.from_metadata(metadata, "m.onnx")


class NormOfNearlyEqualValues(nn.Module):
    """Its float32 results are off by far more than 1e-4 of the largest."""

    def __init__(self):
        super().__init__()
        self.projection = nn.Conv2d(3, 32, 1)
        self.norm = nn.GroupNorm(4, 32, eps=1e-12)

    def forward(self, images):
        return self.norm(1 + 1e-4 * self.projection(images).mean((2, 3), keepdim=True))


class Recomputed:
    """Stands for an exported file: what ``model`` gives in float64, times ``factor``."""

    def __init__(self, model, factor):
        self.model, self.factor = copy.deepcopy(model).double(), factor
        self.card = SimpleNamespace(mean=(0.0, 0.0, 0.0), inputs=("images",))

    def __call__(self, images):
        with torch.no_grad():
            return [self.factor * self.model(images.double()).float()]


def test_a_file_need_not_repeat_pytorchs_rounding():
    model = NormOfNearlyEqualValues()
    difference, excess = export_tool.largest_difference(model, Recomputed(model, 1.0))
    assert difference > TOLERANCE  # or the test shows nothing
    assert excess <= TOLERANCE


@pytest.mark.parametrize("model", [nn.Conv2d(3, 2, 1), NormOfNearlyEqualValues()])
def test_a_file_that_is_wrong_is_found(model):
    _, excess = export_tool.largest_difference(model, Recomputed(model, 1.01))
    assert excess > TOLERANCE


def test_a_file_that_gives_nan_for_one_size_is_found():
    model = nn.Conv2d(3, 2, 1)
    good = Recomputed(model, 1.0)

    def exported(images):
        return [out * (math.nan if images.shape[-1] == 41 else 1.0) for out in good(images)]

    exported.card = good.card
    assert all(map(math.isnan, export_tool.largest_difference(model, exported)))
