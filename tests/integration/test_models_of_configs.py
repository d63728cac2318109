"""Configs are those of mmdet and mmseg: settings, parameters, a step and a prediction."""

from __future__ import annotations

import copy
import functools
import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.kinds import first_of_each_kind
from helpers.paths import CONFIGS
from helpers.small_detector import shrink_model
from helpers.stock_models import has_original, original_of, read
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

import swin_backbone  # noqa: F401  (lets mmdet import without compiled ops)

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")
pytest.importorskip("scipy")  # which matches queries and objects

PATHS = sorted(path for name in ("swin", "swin_det") for path in (CONFIGS / name).glob("*.py"))
#: Configs of models that this project took from mmdet and mmseg, schedules included.
TAKEN = [
    path
    for path in PATHS
    if path.stem.startswith(("mask2former", "dino", "atss", "rtmdet"))
    and not path.stem.endswith("_nuclei")
]
#: One of each kind of model.
KINDS = [
    path
    for path in PATHS
    if path.stem
    in {
        "atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco",
        "cascade-mask-rcnn_swin-t-p4-w7_fpn_ms-crop-1x_coco",
        "dino-4scale_swin-t-p4-w7_8xb2-12e_coco",
        "dino-5scale_swin-l_8xb2-12e_coco",
        "mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco",
        "mask2former_swin-b-in1k-384x384-pre_8xb2-160k_ade20k-640x640",
        "mask2former_swin-b-p4-w12-384_8xb2-lsj-50e_coco-panoptic",
        "mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco",
        "mask2former_swin-t_8xb2-160k_ade20k-512x512",
        "retinanet_swin-t-p4-w7_fpn_ms-crop-1x_coco",
        "rtmdet_l_swin_b_4xb32-100e_coco",
        "rtmdet_l_swin_b_p6_4xb16-100e_coco",
    }
]


def name_of(path: Path) -> str:
    return path.stem


def both(path: Path) -> tuple[Config, Config]:
    """Our config, and the one it stands for: ours with the library's backbone where it has none."""
    ours = read(path)
    if has_original(path):
        return ours, original_of(path)
    stock = copy.deepcopy(ours)
    stock.model.backbone.type = "SwinTransformer"
    return ours, stock


def build(cfg: Config):
    scope = cfg.get("default_scope", "mmseg")
    importlib.import_module(f"{scope}.models")
    with DefaultScope.overwrite_default_scope(scope):
        return importlib.import_module(f"{scope}.registry").MODELS.build(copy.deepcopy(cfg.model))


def plain(value):
    """A config's values, without where files are read from, and what a list or a tuple holds."""
    if isinstance(value, dict):
        left_out = ("backend_args", "data_root", "backbone")
        return {name: plain(item) for name, item in value.items() if name not in left_out}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("path", TAKEN, ids=name_of)
def test_settings_are_the_originals(path):
    """Heads, losses, costs of matching and pipelines; schedules of those of the same name."""
    ours, stock = both(path)
    parts = ["model", "train_pipeline", "test_pipeline"]
    if "lsj-100e_coco" not in path.name.replace(
        "-panoptic", "!"
    ):  # mmdet trains it on things alone
        parts += ["param_scheduler", "train_cfg"]
    for part in parts:
        assert plain(ours[part]) == plain(stock[part]), part
    own, backbone = ours.model.backbone, stock.model.backbone
    for name in ("window_size", "drop_path_rate"):
        assert own[name] == backbone[name]
    for name, default in (("with_cp", False), ("out_indices", (0, 1, 2, 3))):
        assert own.get(name, default) == backbone.get(name, default)


@pytest.fixture(autouse=True)
def few_words():
    """mmengine has a line for each parameter's beginning and rate."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel("WARNING")
    yield
    logger.setLevel(level)


@pytest.fixture
def on_meta(monkeypatch):
    """Models without values; mmdet's backbone reads the numbers of a ``linspace``."""
    monkeypatch.setattr(torch, "linspace", functools.partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        yield


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize("path", first_of_each_kind(TAKEN))
def test_parameters_and_their_groups_are_the_originals(path):
    """In number, shape and order, under the same names but the backbone's; with the same rates."""
    configs = both(path)
    models = [build(cfg) for cfg in configs]
    own, original = (list(model.named_parameters()) for model in models)
    outside = [[n for n, _ in named if not n.startswith("backbone.")] for named in (own, original)]
    assert outside[0] == outside[1]
    shapes = [[parameter.shape for _, parameter in named] for named in (own, original)]
    assert shapes[0] == shapes[1]
    assert sum(p.numel() for _, p in own) == sum(p.numel() for _, p in original) > 40e6
    own, original = (groups(*each) for each in zip(models, configs, strict=True))
    assert own == original


def groups(model, cfg: Config) -> list[tuple[float, float]]:
    """Rate and weight decay of each parameter, in the model's order."""
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    settings = {
        id(p): (group["lr"], group["weight_decay"])
        for group in wrapper.param_groups
        for p in group["params"]
    }
    return [settings[id(parameter)] for parameter in model.parameters()]


def pair(path: Path):
    """The small model of our config and of the original, with the same random weights."""
    models = []
    for cfg in both(path):
        shrink_model(cfg.model)
        cfg.model.backbone.update(drop_path_rate=0.0, with_cp=False)
        torch.manual_seed(0)
        models.append(build(cfg))
    own, stock = models
    stock.init_weights()
    with torch.no_grad():
        for parameter in stock.parameters():  # fresh heads score all boxes alike
            parameter.add_(0.05 * torch.randn_like(parameter))
    own.load_state_dict(stock.state_dict(), strict=True)
    for model in models:
        compute_in_float64(model.backbone)
    return own, stock


def compute_in_float64(backbone) -> None:
    """Float64 in the backbone and float32 around it, which heads ask for; maps in one layout, whose
    convolutions have one order of sums."""
    backbone.double()
    backbone.register_forward_pre_hook(lambda _, args: tuple(x.double() for x in args))
    backbone.register_forward_hook(lambda _, args, maps: tuple(map(rounded, maps)))


def rounded(maps: torch.Tensor) -> torch.Tensor:
    return maps.float().contiguous()


def draw(path: Path):
    """Two images and what is in them, for detectors and for segmentors."""
    size = (128, 192) if "p6" in path.stem else (96, 128)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.normal(size=(2, 3, *size))).float()
    if "ade20k" in path.stem:
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        samples = []
        for _ in range(2):
            blocks = np.kron(rng.integers(0, 150, (3, 4)), np.ones((32, 32), np.int64))
            blocks[:5, :7] = 255
            sample = SegDataSample(metainfo=metadata(size))
            sample.gt_sem_seg = PixelData(data=torch.from_numpy(blocks)[None])
            samples.append(sample)
        return images, samples
    samples = [draw_objects(rng, size) for _ in range(2)]
    if "mask" not in path.stem:
        for sample in samples:
            del sample.gt_instances.masks
    return images, samples


def metadata(size) -> dict:
    shapes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), size)
    return shapes | {"scale_factor": (1.0, 1.0)}


def draw_objects(rng, size):
    """Boxes, labels, masks and a map of classes of one image."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData, PixelData

    rows, columns = size
    corners = rng.uniform(0, 0.6, (5, 2))
    sides = rng.uniform(0.15, 0.4, (5, 2))
    boxes = np.concatenate([corners, corners + sides], 1) * [columns, rows, columns, rows]
    masks = np.zeros((5, *size), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = 1
    sample = DetDataSample(metainfo=metadata(size))
    labels = torch.from_numpy(rng.integers(0, 80, 5))
    sample.gt_instances = InstanceData(
        bboxes=torch.from_numpy(boxes).float(),
        labels=labels,
        masks=BitmapMasks(masks, rows, columns),
    )
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=labels[:0])
    stuff = np.kron(rng.integers(80, 133, (4, 4)), np.ones((rows // 4, columns // 4), np.int64))
    sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(stuff)[None])
    return sample


def step(model, images, samples):
    """Losses and gradients, those of parameters in their order."""
    torch.manual_seed(1)
    np.random.seed(1)
    losses = model.train().loss(images, copy.deepcopy(samples))
    total, log = model.parse_losses(losses)
    total.backward()
    return log, [parameter.grad for parameter in model.parameters()]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", KINDS, ids=name_of)
def test_a_step_and_a_prediction_are_the_originals(path):
    """The backbones compute in float64, so that their maps differ by a rounding of float32, if at
    all, and what heads sample and match is the same; the sums of heads carry the roundings on."""
    own, stock = pair(path)
    images, samples = draw(path)
    (losses, gradients), (expected, right) = (step(m, images, samples) for m in (own, stock))
    assert losses.keys() == expected.keys()
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-9)
    names = [name for name, _ in own.named_parameters()]
    for name, gradient, other in zip(names, gradients, right, strict=True):
        assert (gradient is None) == (other is None), name
        if gradient is not None:
            error = (gradient - other).norm()
            assert error <= 1e-5 * other.norm() + 1e-9, (name, error, other.norm())
    found, results = (predict(model, images, samples) for model in (own, stock))
    assert found.keys() == results.keys()
    torch.testing.assert_close(found, results, rtol=1e-5, atol=1e-6)


def predict(model, images, samples) -> dict:
    """All that is predicted for the first image."""
    with torch.no_grad():
        found, _ = model.eval().predict(images, copy.deepcopy(samples))
    values = {}
    for name in ("pred_instances", "pred_panoptic_seg", "pred_sem_seg", "seg_logits"):
        if name in found:
            values |= {f"{name}.{key}": value for key, value in found.get(name).items()}
    assert values
    return {k: v if isinstance(v, torch.Tensor) else torch.as_tensor(v) for k, v in values.items()}
