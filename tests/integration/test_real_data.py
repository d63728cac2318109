"""A few dozen steps on real images: the loss falls and the maps beat the majority class.

``SWIN_DATA_ROOT`` names the folder with ``camvid`` and ``nuclei``.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from helpers.paths import DETECTION_CONFIGS, ROOT
from helpers.tiny_run import LABELS, LOAD, PACK, dataset, tiny_config
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from PIL import Image

DEFAULT_ROOT = ROOT.parent / "shared" / "data"
ROOT = Path(os.environ.get("SWIN_DATA_ROOT", DEFAULT_ROOT)).resolve()

pytestmark = [pytest.mark.real_data, pytest.mark.slow]

CAMVID = [
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
]
NUCLEI = ["background", "nucleus", "boundary"]
BACKBONE = {
    "embed_dims": 32,
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 2, 4, 8),
    "strides": (4, 2, 2, 2),
    "out_indices": (0, 1, 2, 3),
    "window_size": 7,
    "drop_rate": 0.0,
    "drop_path_rate": 0.1,
}
HEAD = {
    "type": "UPerHead",
    "in_channels": [32, 64, 128, 256],
    "in_index": [0, 1, 2, 3],
    "pool_scales": (1, 2, 3, 6),
    "channels": 32,
    "norm_cfg": {"type": "GN", "num_groups": 8},
}


@HOOKS.register_module()
class SizesHook(Hook):
    """Notes the sizes of the training and validation images."""

    def __init__(self):
        self.train, self.val = set(), set()

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.train.update(tuple(image.shape[1:]) for image in data_batch["inputs"])

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self.val.update(tuple(image.shape[1:]) for image in data_batch["inputs"])


def folder(name):
    path = ROOT / name
    if not path.is_dir():
        pytest.skip(f"{path} is not there; SWIN_DATA_ROOT names the folder of {name!r}")
    return path


def real_config(name, classes, work_dir, steps, batch_size, augmentation, val_indices):
    root = folder(name)
    config = tiny_config(root, work_dir, steps, backbone=BACKBONE)
    config.model.decode_head = {**HEAD, "num_classes": len(classes)}
    config.model.data_preprocessor.update(size=None, size_divisor=1)  # to a batch's largest
    config.train_dataloader.update(batch_size=batch_size)
    pipeline = [LOAD, LABELS, *augmentation, PACK]
    config.train_dataloader.dataset = dataset(root, "train", pipeline, classes)
    options = {"test_mode": True, "indices": val_indices}
    config.val_dataloader.dataset = dataset(root, "val", [LOAD, LABELS, PACK], classes, **options)
    config.train_cfg.val_interval = steps + 1
    config.default_hooks.checkpoint = None
    config.optim_wrapper.optimizer.lr = 2e-3
    config.custom_hooks.append({"type": "SizesHook"})
    return config


def majority_miou(runner):
    """mIoU in percent of calling every pixel the most frequent class."""
    counts = np.zeros(256, int)
    for index in range(len(runner.val_dataloader.dataset)):
        path = runner.val_dataloader.dataset.get_data_info(index)["seg_map_path"]
        counts += np.bincount(np.asarray(Image.open(path)).ravel(), minlength=256)
    classes = counts[: len(runner.val_dataloader.dataset.metainfo["classes"])]
    present = np.count_nonzero(classes)
    return 100 * classes.max() / classes.sum() / present


def assert_learns(config):
    runner = Runner.from_cfg(config)
    runner.train()
    losses, _ = runner.message_hub.get_scalar("train/loss").data
    eighth = len(losses) // 8
    first, last = losses[:eighth].mean(), losses[-eighth:].mean()
    miou = runner.val()["mIoU"]
    majority = majority_miou(runner)
    print(f"loss {first:.3f} -> {last:.3f}; mIoU {miou:.1f} %, majority class {majority:.1f} %")
    assert last < 0.85 * first
    assert miou > majority + 5
    (sizes,) = (hook for hook in runner.hooks if isinstance(hook, SizesHook))
    return sizes


def test_camvid(tmp_path):
    augmentation = [
        {"type": "RandomCrop", "crop_size": (240, 320), "cat_max_ratio": 0.75},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PhotoMetricDistortion"},
    ]
    config = real_config("camvid", CAMVID, tmp_path, 60, 2, augmentation, list(range(0, 101, 13)))
    assert assert_learns(config).val == {(360, 480)}


def test_nuclei_of_many_sizes_in_one_run(tmp_path):
    """One image a step, whole or, if it is large, a crop of it."""
    augmentation = [
        {"type": "RandomCrop", "crop_size": (320, 360)},
        {"type": "RandomFlip", "prob": 0.5},
    ]
    config = real_config("nuclei", NUCLEI, tmp_path, 220, 1, augmentation, list(range(0, 108, 13)))
    # Most pixels are background.
    weighted = {"type": "CrossEntropyLoss", "class_weight": [0.4, 2.0, 4.0]}
    config.model.decode_head.loss_decode = weighted
    sizes = assert_learns(config)
    assert len(sizes.train) >= 3
    assert len(sizes.val) >= 3


def test_mask_rcnn_on_nuclei(tmp_path, monkeypatch):
    """One image a step, whole or a crop of it; dozens of instances in each."""
    pytest.importorskip("mmdet")
    folder("nuclei")
    monkeypatch.setenv("SWIN_DATA_ROOT", str(ROOT))
    configs = DETECTION_CONFIGS
    config = Config.fromfile(configs / "mask-rcnn_swin-t-p4-w7_fpn_1xb8-2k_nuclei.py")
    steps, channels = 60, 64
    config.model.backbone.pop("arch")
    config.model.backbone.update(BACKBONE)
    config.model.neck.update(in_channels=HEAD["in_channels"], out_channels=channels)
    config.model.rpn_head.update(in_channels=channels, feat_channels=channels)
    roi_head = config.model.roi_head
    for name in ("bbox_roi_extractor", "mask_roi_extractor"):
        roi_head[name].out_channels = channels
    roi_head.bbox_head.update(in_channels=channels, fc_out_channels=128)
    roi_head.mask_head.update(in_channels=channels, conv_out_channels=channels, num_convs=2)
    config.model.train_cfg.rcnn.sampler.num = 128
    config.train_dataloader.update(batch_size=1, num_workers=0, persistent_workers=False)
    (resize,) = (step for step in config.train_pipeline if step.type == "Resize")
    resize.scale = (320, 320)
    config.train_dataloader.dataset.pipeline = config.train_pipeline
    config.val_dataloader = config.val_evaluator = config.val_cfg = None
    config.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": steps}
    config.param_scheduler = {"type": "ConstantLR", "factor": 1.0, "by_epoch": False}
    config.optim_wrapper.optimizer.lr = 1e-3
    config.default_hooks.checkpoint = None
    config.custom_hooks.append({"type": "SizesHook"})
    config.update(work_dir=str(tmp_path), experiment_name="nuclei instances", log_level="WARNING")
    runner = Runner.from_cfg(config)
    runner.train()
    losses, _ = runner.message_hub.get_scalar("train/loss").data
    first, last = losses[:8].mean(), losses[-8:].mean()
    masks, _ = runner.message_hub.get_scalar("train/loss_mask").data
    print(
        f"loss {first:.3f} -> {last:.3f}; masks {masks[:8].mean():.3f} -> {masks[-8:].mean():.3f}"
    )
    assert last < 0.75 * first
    assert masks[-8:].mean() < 0.95 * masks[:8].mean()
    (sizes,) = (hook for hook in runner.hooks if isinstance(hook, SizesHook))
    assert len(sizes.train) >= 3
