"""Stock configs of mmseg and mmdet with the backbone's type swapped: building, and ops reached."""

import importlib
import types
from pathlib import Path

import pytest
import torch
from helpers.served_ops import serve
from helpers.small_detector import CHANNELS, NUMBERS, shrink
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from swin_backbone.openmmlab import served_ops

#: How many configs there are, at least, and how many of them cannot be built with any backbone.
COUNTS = {"mmseg": (20, 1), "mmdet": (90, 1)}


def folder(package):
    module = pytest.importorskip(package, reason=f"{package} is not installed")
    return Path(module.__path__[0]) / ".mim/configs"


def read(path):
    # Formatting a config costs more than building a model of it.
    return Config.fromfile(path, import_custom_modules=False, format_python_code=False)


def registry(package):
    importlib.import_module(f"{package}.models")
    init_default_scope(package)
    return importlib.import_module(f"{package}.registry").MODELS


def kinds(value):
    """The types in a model, without the numbers that differ from data set to data set."""
    if isinstance(value, dict):
        inner = [
            kinds(value[name]) for name in sorted(value) if isinstance(value[name], (dict, list))
        ]
        return [str(value.get("type")), inner]
    return [kinds(each) for each in value] if isinstance(value, list) else []


def arguments(model):
    """Of the backbone; which checkpoint it names makes no difference before it is loaded."""
    return {k: v for k, v in model.backbone.items() if k not in ("init_cfg", "pretrained")}


def different_models(package):
    """Models with a Swin backbone, one for each of its arguments and kinds of parts around it."""
    paths = [p for p in sorted(folder(package).rglob("*swin*.py")) if "_base_" not in p.parts]
    models = {path.stem: read(path).model for path in paths}
    assert len(models) >= COUNTS[package][0]
    return {repr((kinds(m), arguments(m))): (name, m) for name, m in models.items()}.values()


def test_every_config_with_a_swin_says_so_in_its_name():
    """Else the tests below would miss it."""
    for package in COUNTS:
        for path in folder(package).rglob("*.py"):
            if "_base_" not in path.parts and "SwinTransformer" in path.read_text():
                assert "swin" in path.name


class LanguageModel(nn.Module):
    """In the place of BERT, whose weights would be downloaded."""

    def __init__(self, **kwargs):
        super().__init__()
        body = types.SimpleNamespace(language_dim=768)
        self.language_backbone = types.SimpleNamespace(body=body)


@pytest.fixture
def without_downloads(monkeypatch):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig
    monkeypatch.setattr(config, "from_pretrained", lambda *_, **__: config())


def prepare(model):
    """What a build does not need: weights of a language model, and a package that saves memory."""
    if "language_model" in model:
        model.language_model.type = LanguageModel
    if model.get("encoder"):
        model.encoder.pop("num_cp", None)


def error_of(build):
    try:
        build()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.usefixtures("without_downloads")
@pytest.mark.parametrize("package", COUNTS)
def test_stock_configs_build(package):
    """Or fail as they do with the library's own backbone."""
    models, broken = registry(package), []
    for name, model in different_models(package):
        prepare(model)
        own = model.backbone.type
        model.backbone.type = "SwinBackbone"
        with torch.device("meta"):
            error = error_of(lambda model=model: models.build(model))
        if error is not None:
            model.backbone.update(
                type=own, embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)
            )
            assert error_of(lambda model=model: models.build(model)) == error, name
            broken.append(name)
    # mmdet's GLIP that fuses text early asks for transformers 4.
    broken = [name for name in broken if not name.startswith("glip")]
    assert len(broken) <= COUNTS[package][1], broken


class Recorder:
    """The served ops, and which of them were called."""

    def __init__(self):
        self.called = set()

    def __getattr__(self, name):
        self.called.add(name)
        return getattr(served_ops, name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            "dyhead/atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco.py",
            {"modulated_deform_conv_forward", "modulated_deform_conv_backward", "nms"},
        ),
        (
            "carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py",
            {"carafe_forward", "carafe_backward", "roi_align_forward", "roi_align_backward"},
        ),
        (
            "guided_anchoring/ga-retinanet_r50-caffe_fpn_1x_coco.py",
            {
                "deform_conv_forward",
                "deform_conv_backward_input",
                "deform_conv_backward_parameters",
                "masked_im2col_forward",
                "masked_col2im_forward",
            },
        ),
    ],
)
def test_a_step_through_each_kind_of_op(config, expected, monkeypatch):
    """Loss, backward and prediction of a stock detector with a small Swin."""
    models = registry("mmdet")
    inputs = importlib.import_module("mmdet.testing").demo_mm_inputs
    cfg = read(folder("mmdet") / config).model
    cfg = Config({"model": cfg.to_dict()}, format_python_code=False).model
    shrink(cfg, NUMBERS | CHANNELS)
    out_indices = cfg.backbone.get("out_indices", (0, 1, 2, 3))
    cfg.backbone = {
        "type": "SwinBackbone", "embed_dims": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2),
        "out_indices": out_indices,
    }  # fmt: skip
    neck = cfg.neck[0] if isinstance(cfg.neck, list) else cfg.neck
    neck.in_channels = [8 * 2**stage for stage in out_indices]
    modules = ("nms", "carafe", "roi_align", "deform_conv", "modulated_deform_conv", "masked_conv")
    recorder = Recorder()
    serve(monkeypatch, *modules, ops=recorder)

    model = models.build(cfg)
    batch = inputs(2, [[3, 96, 64], [3, 64, 96]], num_items=[2, 1], num_classes=5)
    losses = model(**model.data_preprocessor(batch, True), mode="loss")
    total, _ = model.parse_losses(losses)
    assert torch.isfinite(total)
    total.backward()
    assert all(
        p.grad is not None and torch.isfinite(p.grad).all()
        for p in model.backbone.stages.parameters()
    )
    model.eval()
    batch = inputs(1, [[3, 96, 64]], num_classes=5)
    with torch.no_grad():
        (found,) = model(**model.data_preprocessor(batch, False), mode="predict")
    assert found.pred_instances.bboxes.shape[1] == 4
    assert expected <= recorder.called
