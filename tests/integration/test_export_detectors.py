"""Exported detectors: the boxes that mmdet's own ``predict`` finds, on every size."""

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.export import Dim

import swin_backbone  # noqa: F401  (lets mmdet import without compiled ops)

pytest.importorskip("mmdet")

from helpers.tiny_detectors import CLASSES, CONFIGS, tiny_config, tiny_detector

from swin_backbone.cli import export as export_tool
from swin_backbone.inference.export import ModelCard, detections, load, write_program
from swin_backbone.inference.export.detection_ops import keep_best, pool_regions
from swin_backbone.inference.export.detector import mmdet_replacements
from swin_backbone.inference.export.detector_check import (
    PIXELS,
    SCORE,
    agreement,
    random_images,
    stock_instances,
)
from swin_backbone.inference.export.exportable_modules import prepare
from swin_backbone.inference.finders import CheckpointFinder, OnnxFinder
from swin_backbone.inference.mask_pasting import paste_masks

#: Height and width: odd, whole multiples of the padding, long and thin, smaller than a window.
SIZES = [(96, 128), (61, 87), (130, 45), (33, 160), (64, 64)]
#: Of which mmdet's DINO has too few tokens for its queries, and the others enough.
TINY_SIZES = [(1, 1), (7, 5), (3, 40)]
CARD = ModelCard(
    name="test", kind="detector", mean=(0.0,) * 3, std=(1.0,) * 3, channels="RGB", strides=(),
    output_channels=(),
)  # fmt: skip

needs_onnx = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason="needs the extra 'export'",
)


def assert_same_boxes(detector, found, images):
    """The stock model's, in its order, in which boxes of the same score may change places."""
    expected = stock_instances(detector, images)
    boxes, scores, labels, *masks = found
    assert len(boxes) == len(expected)
    apart = (expected.bboxes[:, None] - boxes).abs().amax(-1)
    apart += 1e6 * (expected.labels[:, None] != labels)
    order = apart.argmin(1) if len(boxes) else labels
    assert sorted(order.tolist()) == list(range(len(boxes)))
    torch.testing.assert_close(scores[order], scores, rtol=0, atol=SCORE)
    boxes, scores, labels, *masks = (one[order] for one in found)
    assert labels.tolist() == expected.labels.tolist()
    torch.testing.assert_close(boxes, expected.bboxes, rtol=0, atol=PIXELS)
    torch.testing.assert_close(scores, expected.scores, rtol=0, atol=SCORE)
    assert bool(masks) == ("masks" in expected)
    if masks:
        pasted = paste_masks(masks[0], boxes, tuple(images.shape[2:]), 0.5)
        assert pasted.shape == expected.masks.shape
        # A probability of a half may fall either way.
        assert int((pasted != expected.masks).sum()) <= 2 + 1e-3 * pasted.numel()
    return len(boxes)


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_is_traced_finds_what_mmdet_finds(kind):
    detector = tiny_detector(tiny_config(kind))
    module = prepare(detections(detector), mmdet_replacements())
    found = []
    for size in SIZES + ([] if kind == "DINO" else TINY_SIZES):
        images = random_images(size)
        with torch.no_grad():
            found.append(assert_same_boxes(detector, module(images), images))
    assert min(found[: len(SIZES)]) > 3  # or the test shows little


@pytest.fixture(scope="module", params=["RetinaNet", "MaskRCNN", "DINO"])
def exported(request, tmp_path_factory):
    """Kind, config, checkpoint, ONNX file, and mmdet's model, which finds nothing in a black
    image unless it is a DINO, which always finds as many."""
    kind, folder = request.param, tmp_path_factory.mktemp("exported")
    cfg = tiny_config(kind)
    detector = tiny_detector(cfg)
    if kind != "DINO":
        test_cfg = cfg.model.test_cfg.get("rcnn", cfg.model.test_cfg)
        in_black = stock_instances(detector, torch.zeros(1, 3, 96, 128)).scores
        test_cfg.score_thr = float(in_black.max()) + 1e-3
    cfg.dump(folder / "config.py")
    torch.save({"state_dict": detector.state_dict(), "meta": {}}, folder / "checkpoint.pth")
    config, checkpoint = str(folder / "config.py"), str(folder / "checkpoint.pth")
    path = str(folder / "model.onnx")
    status = export_tool.main([config, checkpoint, "--out", path])
    finder = CheckpointFinder(config, checkpoint, "cpu")
    return kind, config, checkpoint, path, finder, status


@needs_onnx
@pytest.mark.slow
def test_the_file_finds_what_mmdet_finds_on_every_size(exported):
    kind, _, _, path, finder, status = exported
    assert status == 0
    file, found = load(path), []
    for size in SIZES + ([] if kind == "DINO" else TINY_SIZES):
        images = random_images(size)
        found.append(assert_same_boxes(finder.network, file(images), images))
    assert sum(found) > 10  # or the test shows little
    black = torch.zeros(1, 3, 96, 128)
    assert (assert_same_boxes(finder.network, file(black), black) == 0) == (kind != "DINO")


@needs_onnx
@pytest.mark.slow
def test_a_small_image_has_fewer_queries_in_the_file(exported):
    kind, _, _, path, _, _ = exported
    for size in TINY_SIZES:
        boxes, scores, labels, *_ = load(path)(random_images(size))
        assert len(boxes) == len(scores) == len(labels)
        assert torch.isfinite(boxes).all()
        assert len(boxes) > 0 or kind != "DINO"


@needs_onnx
@pytest.mark.slow
def test_predictions_of_the_file_are_those_of_its_checkpoint(exported, tmp_path):
    """Through each one's whole pipeline, and on the page and the command line."""
    from swin_backbone.cli import predict
    from swin_backbone.cli.demo_app import Limits, Page, load_model

    _, _, _, path, finder, _ = exported
    model = load(path)
    assert (model.card.kind, model.card.channels) == ("detector", "RGB")
    assert model.card.classes == CLASSES
    assert model.card.resize == (166, 100)  # of the data, which is not the config's variable
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(pixels).resize((117, 73), Image.Resampling.BICUBIC))
    ours, theirs = OnnxFinder(model).objects(image), finder.objects(image)
    assert ours.labels.tolist() == theirs.labels.tolist()
    torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=0, atol=PIXELS)
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=SCORE)
    assert (ours.masks is None) == (theirs.masks is None)
    if ours.masks is not None:
        assert (ours.masks != theirs.masks).float().mean() < 1e-3
    Image.fromarray(image).save(tmp_path / "a.png")
    file = str(tmp_path / "a.png")
    assert predict.main([path, file, "--out", str(tmp_path / "p"), "--score", "0"]) == 0
    painted = np.asarray(Image.open(tmp_path / "p" / "a.png"))
    assert painted.shape == image.shape
    assert len(ours.boxes) == 0 or (painted != image).any()
    pytest.importorskip("gradio", reason="needs the extra 'demo'")
    page = Page({"exported": load_model(path, None, "cpu")}, Limits())
    message, pair, _, stages = page.answer(file, "exported")
    assert message.startswith("117x73 pixels: reading ")
    assert pair[1].size == (117, 73)
    assert stages == []


class Steps(nn.Module):
    """The two operators alone, with numbers whose sizes are free."""

    def __init__(self, least_score, aligned, sampling_ratio):
        super().__init__()
        self.options = least_score, aligned, sampling_ratio

    def forward(self, boxes, scores, groups, levels, first, second):
        least_score, aligned, sampling_ratio = self.options
        kept = keep_best(boxes, scores, groups, least_score, 0.5, 7)
        pooled = pool_regions(
            [first, second], boxes[kept], levels[kept], [0.25, 0.125], [3, 2], sampling_ratio,
            aligned,
        )  # fmt: skip
        return kept, pooled


def random_step_inputs(count, groups, levels):
    corner, side = 60 * torch.rand(count, 2) - 5, 40 * torch.rand(count, 2)
    boxes = torch.cat([corner, corner + side], 1)
    maps = torch.randn(1, 4, 19, 23), torch.randn(1, 4, 10, 12)
    of_group, of_level = torch.randint(groups, (count,)), torch.randint(levels, (count,))
    return (boxes, torch.rand(count), of_group, of_level, *maps)


@needs_onnx
@pytest.mark.parametrize("aligned", [True, False])
def test_operators_in_onnx_are_mmcvs(aligned, tmp_path):
    """Also where no box is known, or no box lies on a level, and with one group or many."""
    import onnxruntime

    from swin_backbone.inference.export.detection_ops import onnx_translations
    from swin_backbone.ops.torch_internals.packaging import size_one_is_ordinary

    torch.manual_seed(0)
    steps = Steps(0.3, aligned, 2 if aligned else 0)
    some = Dim.DYNAMIC(min=1)
    dynamic = ({0: some}, {0: some}, {0: some}, {0: some}, {2: some, 3: some}, {2: some, 3: some})
    with size_one_is_ordinary():
        program = torch.export.export(
            steps, random_step_inputs(30, 3, 2), dynamic_shapes=(*dynamic,)
        )
    written = torch.onnx.export(
        program, dynamo=True, custom_translation_table=onnx_translations(), verbose=False
    )
    written.save(tmp_path / "steps.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "steps.onnx")
    names = [one.name for one in session.get_inputs()]
    for count, groups, levels in [(30, 3, 2), (200, 1, 2), (200, 80, 1), (1, 1, 1), (2, 2, 2)]:
        for scale in (1.0, 0.2):  # the latter: all scores are below the least one
            inputs = random_step_inputs(count, groups, levels)
            inputs = (inputs[0], inputs[1] * scale, *inputs[2:])
            kept, pooled = steps(*inputs)
            arrays = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
            ours, values = map(torch.from_numpy, session.run(None, arrays))
            assert ours.tolist() == kept.tolist()
            assert (scale == 1.0 and count > 2) <= (len(kept) > 0)
            torch.testing.assert_close(values, pooled, rtol=1e-5, atol=1e-5)


class Shifted:
    """Stands for an exported file: what a detector finds, some of it changed."""

    def __init__(self, detector, **changes):
        self.detector, self.changes = detector, changes

    def __call__(self, images):
        found = stock_instances(self.detector, images)
        boxes, scores, labels = found.bboxes, found.scores, found.labels
        boxes = boxes + self.changes.get("boxes", 0)
        drop = self.changes.get("drop", 0)
        columns = (
            boxes,
            scores + self.changes.get("scores", 0),
            labels + self.changes.get("label", 0),
        )
        return [column[drop:] for column in columns]


@pytest.mark.parametrize("kind", ["RetinaNet", "DINO"])
def test_a_file_that_is_wrong_is_found(kind):
    detector, sizes = tiny_detector(tiny_config(kind)), [(61, 87)]
    found, strays = agreement(detector, Shifted(detector), sizes)
    assert found > 3
    assert strays == 0
    for change in ({"boxes": 0.01}, {"scores": 1e-3}, {"label": 1}, {"drop": 1}):
        assert agreement(detector, Shifted(detector, **change), sizes).strays > 0, change


@pytest.mark.parametrize(
    ("kind", "setting", "value", "message"),
    [
        ("RetinaNet", "test_cfg.nms.type", "soft_nms", "test_cfg.nms must be of type 'nms'"),
        ("MaskRCNN", "test_cfg.rpn.nms.max_num", 9, "test_cfg.rpn.nms must be"),
        ("RetinaNet", "backbone.mask_padding", True, "mask_padding=False"),
        ("RetinaNet", "bbox_head.bbox_coder.add_ctr_clamp", True, "with add_ctr_clamp"),
        ("RetinaNet", "bbox_head.loss_cls",
         {"type": "CrossEntropyLoss"}, "bbox_head must score by the sigmoid"),
        ("DINO", "data_preprocessor.pad_size_divisor", 32, "pad_size_divisor of a DINO must be 1"),
    ],
)  # fmt: skip
def test_settings_that_the_file_would_not_follow_are_refused(kind, setting, value, message):
    cfg = tiny_config(kind)
    *path, last = setting.split(".")
    part = cfg.model
    for key in path:
        part = part[key]
    part[last] = value
    with pytest.raises(ValueError, match=message):
        detections(tiny_detector(cfg))


@pytest.mark.parametrize(
    ("part", "name", "message"),
    [
        ("", "ATSS", r"one of \['DINO', 'FasterRCNN', .*got ATSS: .*--part backbone"),
        ("bbox_head", "ATSSHead", "bbox_head of a RetinaNet must be RetinaHead .*, got ATSSHead"),
    ],
)
def test_other_models_are_refused(part, name, message):
    """Also those that are made from what can be exported, and override a step."""
    detector = tiny_detector(tiny_config("RetinaNet"))
    module = detector.get_submodule(part)
    module.__class__ = type(name, (type(module),), {})
    with pytest.raises(ValueError, match=message):
        detections(detector)


def test_a_detector_is_exported_as_onnx_alone(tmp_path):
    program = torch.export.export(nn.Identity(), (torch.zeros(1),))
    with pytest.raises(ValueError, match="'onnx' alone, got 'torch-export'"):
        write_program(program, CARD, tmp_path / "model.pt2", "torch-export")


@pytest.mark.parametrize("size", [(50, 70), (9, 13)])
def test_masks_are_pasted_as_mmdet_pastes_them(size):
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead

    corner, side = 60 * torch.rand(20, 2) - 10, 40 * torch.rand(20, 2) ** 3
    boxes, logits = torch.cat([corner, corner + side], 1), torch.randn(20, 1, 14, 14)
    boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([size[1], size[0]] * 2))
    head = FCNMaskHead(num_convs=0, in_channels=1, class_agnostic=True, num_classes=1)
    meta = {"scale_factor": (1.0, 1.0), "ori_shape": size}
    cfg = type("Config", (), {"mask_thr_binary": 0.5})
    labels = torch.zeros(20, dtype=torch.int64)
    expected = head._predict_by_feat_single(logits, boxes.clone(), labels, meta, cfg, rescale=True)
    assert torch.equal(paste_masks(logits[:, 0].sigmoid(), boxes, size, 0.5), expected)
    assert expected.any()
