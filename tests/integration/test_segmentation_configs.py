"""Every segmentation config trains a step and predicts, on images in its data set's own folders.

Models and images are shrunk; that the models as configured have the published sizes is checked
apart.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.kinds import first_of_each_kind
from helpers.paths import CONFIGS
from helpers.small_detector import shrink_model
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

import swin_backbone  # noqa: F401  (lets mmseg import without compiled ops)

pytest.importorskip("mmseg")
from mmseg.registry import MODELS

FOLDER = CONFIGS
CONFIGS = sorted(
    path for name in ("swin", "swinv2", "demo") for path in (FOLDER / name).glob("*.py")
)
CONFIGS = [path for path in CONFIGS if "rcnn" not in path.stem]
UPERNETS = [path for path in CONFIGS if "swin-" in path.stem and "upernet" in path.stem]
UPERNETS = [path for path in UPERNETS if "ade20k" in path.stem]

#: Millions of parameters of UPerNet on ADE20K, https://github.com/microsoft/Swin-Transformer
PUBLISHED_PARAMETERS = {"tiny": 60, "small": 81, "base": 121, "large": 234}

#: Folders of images and annotations below the data root, and their files' endings.
LAYOUTS = {
    "ADE20KDataset": [
        ("images/training/ADE_train_00000001.jpg", "annotations/training/ADE_train_00000001.png"),
        ("images/training/ADE_train_00000002.jpg", "annotations/training/ADE_train_00000002.png"),
        ("images/validation/ADE_val_00000001.jpg", "annotations/validation/ADE_val_00000001.png"),
    ],
    "CityscapesDataset": [
        (
            f"leftImg8bit/{split}/{name}_leftImg8bit.png",
            f"gtFine/{split}/{name}_gtFine_labelTrainIds.png",
        )
        for split, name in [
            ("train", "aachen/aachen_000000_000019"),
            ("train", "bochum/bochum_000000_000313"),
            ("val", "lindau/lindau_000000_000019"),
        ]
    ],
    "BaseSegDataset": [
        (f"img_dir/{name}.jpg", f"ann_dir/{name}.png") for name in ("train/a", "train/b", "val/c")
    ],
}
IMAGE_SIZES = [(90, 120), (61, 77), (83, 64)]
SHRINK = 8


def by_name(part: str) -> Path:
    return next(path for path in CONFIGS if part in path.stem)


def write_dataset(cfg: Config, root: Path) -> None:
    """Generated images in the layout of the config's data set, where the config looks for it."""
    dataset = cfg.train_dataloader.dataset
    if not Path(dataset.data_root).is_relative_to(root):  # not below SWIN_DATA_ROOT, as the demo
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            loader.dataset.data_root = str(root / "own")
    rng = np.random.default_rng(0)
    # ADE20K numbers its classes from 1, and 0 is everything else.
    first = 1 if dataset.type == "ADE20KDataset" else 0
    for size, (image, labels) in zip(IMAGE_SIZES, LAYOUTS[dataset.type], strict=True):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        classes = rng.integers(first, cfg.model.decode_head.num_classes + first, size)
        classes[:5, :5] = 0 if first else 255
        for name, array in ((image, pixels), (labels, classes.astype(np.uint8))):
            path = Path(dataset.data_root, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), array)


def shrink_segmentor(cfg: Config) -> None:
    """The model, with a head of convolutions."""
    channels = [8, 16, 32, 64]
    for name in ("arch", "init_cfg"):
        cfg.model.backbone.pop(name, None)
    cfg.model.backbone.update(embed_dims=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 8))
    if "neck" in cfg.model:
        cfg.model.neck.update(in_channels=channels, out_channels=8)
        channels = [8] * 4
    cfg.model.decode_head.update(in_channels=channels, channels=16)
    if "auxiliary_head" in cfg.model:
        cfg.model.auxiliary_head.update(in_channels=channels[2], channels=8)
    cfg.model.data_preprocessor.size = shrunk(cfg.model.data_preprocessor.size)


def shrink(cfg: Config) -> None:
    """A model of a few thousand parameters on small images; all else stays as configured."""
    mask_transformer = cfg.model.decode_head.type == "Mask2FormerHead"
    shrink_model(cfg.model) if mask_transformer else shrink_segmentor(cfg)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        shrink_transforms(loader.dataset.pipeline)
        loader.update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.batch_size = 2


def shrink_transforms(value) -> None:
    if isinstance(value, list):
        for item in value:
            shrink_transforms(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in ("scale", "scales", "crop_size"):
                value[name] = shrunk(item)
            shrink_transforms(item)


def shrunk(size: tuple[int, int]) -> tuple[int, int]:
    return tuple(side // SHRINK for side in size)


@pytest.fixture
def small_config(tmp_path, monkeypatch):
    """Reads a config, shrinks it and gives it data: path to config."""

    def read(path: Path) -> Config:
        monkeypatch.setenv("SWIN_DATA_ROOT", str(tmp_path / "data"))
        # Formatting a config costs more than training one small step.
        cfg = Config(Config.fromfile(path).to_dict(), format_python_code=False)
        write_dataset(cfg, tmp_path / "data")
        shrink(cfg)
        cfg.work_dir = str(tmp_path / "work")
        cfg.experiment_name = tmp_path.name  # a message hub of its own
        return cfg

    return read


@pytest.mark.parametrize("path", first_of_each_kind(CONFIGS))
def test_trains_a_step_and_predicts(path, small_config, tmp_path):
    cfg = small_config(path)
    cfg.train_cfg.update(max_iters=1, val_interval=1)
    runner = Runner.from_cfg(cfg)
    runner.train()

    assert math.isfinite(runner.message_hub.get_scalar("train/loss").current())
    assert 0 <= runner.message_hub.get_scalar("val/mIoU").current() <= 100
    assert (tmp_path / "work" / "iter_1.pth").is_file()
    trained = runner.optim_wrapper.optimizer.state
    idle = [name for name, p in runner.model.named_parameters() if p not in trained]
    assert not idle, "parameters without a gradient"

    num_classes = cfg.model.decode_head.num_classes
    assert len(runner.val_dataloader.dataset.metainfo["classes"]) == num_classes
    (prediction,) = runner.model.test_step(next(iter(runner.val_dataloader)))
    classes = prediction.pred_sem_seg.data
    assert classes.shape == (1, *IMAGE_SIZES[2]), "not the size of the image on disk"
    assert 0 <= classes.min() <= classes.max() < num_classes


@pytest.mark.parametrize("dataset", ["upernet_8xb2-160k_ade20k-512x512", "cityscapes"])
def test_predicts_with_test_time_augmentation(dataset, small_config):
    cfg = small_config(by_name(dataset))
    shrink_transforms(cfg.tta_pipeline)
    cfg.test_dataloader = cfg.val_dataloader
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
    assert 0 <= Runner.from_cfg(cfg).test()["mIoU"] <= 100


@pytest.mark.parametrize("path", first_of_each_kind(UPERNETS))
def test_parameters_match_the_published_number(path):
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert round(millions) == PUBLISHED_PARAMETERS[cfg.model.backbone.arch]


NAME = re.compile(
    r"swin-(?P<arch>\w+)-patch4-window(?P<window>\d+)(-in(?P<images>\d+k)(-(?P<size>\d+)x\d+)?-pre)?"
    r"_(?P<head>upernet|fpn)_\d+xb(?P<batch>\d+)(?P<decay>-layer-decay)?-(?P<steps>\d+)k"
    r"_(?P<data>\w+)-(?P<crop>\d+x\d+)"
)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("swin/swin-*.py")), ids=lambda path: path.stem)
def test_does_what_its_name_says(path):
    name = NAME.fullmatch(path.stem)
    cfg = Config.fromfile(path)
    backbone = cfg.model.backbone
    assert (backbone.arch, str(backbone.window_size)) == (name["arch"], name["window"])
    if name["images"]:
        pretrained = f"swin_{name['arch']}_patch4_window{name['window']}_{name['size'] or 224}"
        pretrained += "_22k_20" if name["images"] == "22k" else "_20"
        assert f"/{pretrained}" in backbone.init_cfg.checkpoint
    else:
        assert "init_cfg" not in backbone
    head = {"upernet": "UPerHead", "fpn": "FPNHead"}[name["head"]]
    assert cfg.model.decode_head.type == head
    assert cfg.train_dataloader.batch_size == int(name["batch"])
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end == 1000 * int(name["steps"])
    assert ("layer_decay_rate" in cfg.optim_wrapper.paramwise_cfg) == bool(name["decay"])
    folder = {"ade20k": "/ade/ADEChallengeData2016"}.get(name["data"], f"/{name['data']}")
    assert cfg.train_dataloader.dataset.data_root.endswith(folder)
    crop = tuple(map(int, name["crop"].split("x")))
    (cropping,) = [t for t in cfg.train_pipeline if t.type == "RandomCrop"]
    assert cropping.crop_size == cfg.model.data_preprocessor.size == crop


@pytest.mark.parametrize("path", sorted(FOLDER.glob("swin/*.py")), ids=lambda path: path.stem)
def test_can_be_killed_and_resumed(path):
    cfg = Config.fromfile(path)
    assert "seed" in cfg.get("randomness", {})
    assert "StepSeedHook" in [hook.type for hook in cfg.get("custom_hooks", [])]
    assert cfg.default_hooks.checkpoint.max_keep_ckpts >= 2


@pytest.mark.parametrize("set_to", [None, "/elsewhere"])
def test_data_root_follows_the_environment(set_to, monkeypatch):
    monkeypatch.delenv("SWIN_DATA_ROOT", raising=False)
    if set_to:
        monkeypatch.setenv("SWIN_DATA_ROOT", set_to)
    cfg = Config.fromfile(by_name("camvid"))
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.data_root == f"{set_to or 'data'}/camvid"


def optimizer_groups(cfg: Config) -> dict[str, dict]:
    """Optimizer settings by the parameter's name."""
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).param_groups
    settings = {id(p): group for group in groups for p in group["params"]}
    return {name: settings[id(p)] for name, p in model.named_parameters()}


@pytest.mark.parametrize("part", ["upernet_8xb2-160k", "fpn", "layer-decay", "4k_camvid"])
def test_norms_and_position_parameters_do_not_decay(part, small_config):
    cfg = small_config(by_name(part))
    cfg.model.backbone.use_abs_pos_embed = True
    for name, group in optimizer_groups(cfg).items():
        exempt = re.search(r"norm|relative_position_bias_table|absolute_pos_embed", name)
        decay = 0 if exempt else cfg.optim_wrapper.optimizer.weight_decay
        assert group["weight_decay"] == decay, name


def test_layer_decay_slows_the_layers_near_the_image(small_config):
    cfg = small_config(by_name("layer-decay"))
    groups = optimizer_groups(cfg)
    names = ["patch_embed.projection.weight", "stages.0.blocks.0.attn.qkv.weight"]
    names += ["stages.3.blocks.0.attn.qkv.weight"]
    rates = [next(g["lr"] for n, g in groups.items() if part in n) for part in names]
    rates.append(groups["decode_head.conv_seg.weight"]["lr"])
    assert rates == pytest.approx([1e-4 * 0.9**layers for layers in (6, 5, 1, 0)])
