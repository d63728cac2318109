"""Every detection config trains a step and predicts, on images in COCO's format.

Channels, images and numbers of proposals are shrunk, and the backbone has 5 blocks; that the models
as configured have the published sizes is checked apart.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from helpers.kinds import first_of_each_kind
from helpers.paths import DETECTION_CONFIGS
from helpers.small_detector import small_detector, write_data
from helpers.stock_models import has_original
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

import swin_backbone  # noqa: F401  (lets mmdet import without compiled ops)

pytest.importorskip("mmdet")
from mmdet.registry import MODELS

FOLDER = DETECTION_CONFIGS
CONFIGS = sorted(FOLDER.glob("*.py"))
#: Millions of parameters, https://github.com/SwinTransformer/Swin-Transformer-Object-Detection
PUBLISHED_PARAMETERS = {
    "mask-rcnn_swin-t": 48,
    "mask-rcnn_swin-s": 69,
    "cascade-mask-rcnn_swin-t": 86,
    "cascade-mask-rcnn_swin-s": 107,
    "cascade-mask-rcnn_swin-b": 145,
}
TRAIN_SIZES, VAL_SIZES = [(90, 120), (61, 77)], [(83, 64)]


@pytest.fixture
def small_config(tmp_path, monkeypatch):
    """Reads a config, shrinks it and gives it data: path to config."""

    def read(path: Path) -> Config:
        monkeypatch.setenv("SWIN_DATA_ROOT", str(tmp_path / "data"))
        cfg = small_detector(path)
        write_data(cfg.train_dataloader.dataset, TRAIN_SIZES)
        write_data(cfg.val_dataloader.dataset, VAL_SIZES)
        cfg.work_dir = str(tmp_path / "work")
        cfg.experiment_name = tmp_path.name  # a message hub of its own
        return cfg

    return read


#: Reading COCO's panoptic annotations needs a package that no registry has.
READABLE = [path for path in CONFIGS if not path.stem.endswith("panoptic")]


@pytest.mark.parametrize("path", first_of_each_kind(READABLE))
def test_trains_a_step_and_predicts(path, small_config, tmp_path):
    cfg = small_config(path)
    by_epoch = cfg.train_cfg.type == "EpochBasedTrainLoop"
    cfg.train_cfg.update({"max_epochs" if by_epoch else "max_iters": 1}, val_interval=1)
    runner = Runner.from_cfg(cfg)
    runner.train()

    assert math.isfinite(runner.message_hub.get_scalar("train/loss").current())
    assert 0 <= runner.message_hub.get_scalar("val/coco/bbox_mAP").current() <= 1
    assert (tmp_path / "work" / ("epoch_1.pth" if by_epoch else "iter_1.pth")).is_file()
    trained = runner.optim_wrapper.optimizer.state
    idle = [name for name, p in runner.model.named_parameters() if p not in trained]
    assert not idle, "parameters without a gradient"

    (prediction,) = runner.model.test_step(next(iter(runner.val_dataloader)))
    assert prediction.ori_shape == VAL_SIZES[0], "not the size of the image on disk"
    found = prediction.pred_instances
    height, width = VAL_SIZES[0]
    assert len(found) > 0
    assert found.bboxes.shape == (len(found), 4)
    if "mask" in path.stem:
        assert found.masks.shape == (len(found), height, width)
    if "rtmdet" in path.stem:
        return  # mmdet clips its boxes to the padded square
    border = torch.tensor([width, height, width, height]) + 1e-3  # float32 scaled back
    assert ((found.bboxes >= -1e-3) & (found.bboxes <= border)).all()


@pytest.mark.parametrize("path", first_of_each_kind(CONFIGS))
def test_parameters_match_the_published_number(path):
    model_name = re.match(r"[\w-]+?_swin(v2)?[-_]\w", path.stem)[0]
    published = PUBLISHED_PARAMETERS.get(model_name)
    if published is None:
        pytest.skip("the authors of Swin published none")
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    if "nuclei" in path.stem:  # one class has 0.4 million fewer
        assert 0 < published - millions < 1
    else:
        assert round(millions) == published


NAME = re.compile(
    r"(?P<detector>[\w-]+?)_swin(?P<version>v2)?-(?P<arch>\w)-p4-w(?P<window>\d+)(_fpn)?"
    r"(_ms-crop-(?P<times>\d)x|_8xb(?P<batch>\d)-(?P<epochs>\d+)e)_coco"
)
DETECTORS = {
    "retinanet": "RetinaNet",
    "mask-rcnn": "MaskRCNN",
    "cascade-mask-rcnn": "CascadeRCNN",
    "dino-4scale": "DINO",
    "dino-5scale": "DINO",
}
ARCHITECTURES = {"t": "tiny", "s": "small", "b": "base", "l": "large"}
#: Size of images in pretraining, and which, by the size of windows.
PRETRAINING = {"7": "224_20", "12": "384_22k_20"}
#: Other names are mmdet's, whose configs they are.
NAMED = [path for path in sorted(FOLDER.glob("*_coco.py")) if NAME.fullmatch(path.stem)]


OTHERS = [path for path in CONFIGS if path not in NAMED and "nuclei" not in path.stem]


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_other_names_are_those_of_configs_of_mmdet(path):
    assert has_original(path)


@pytest.mark.parametrize("path", NAMED, ids=lambda path: path.stem)
def test_does_what_its_name_says(path):
    name = NAME.fullmatch(path.stem)
    cfg = Config.fromfile(path)
    assert cfg.model.type == DETECTORS[name["detector"]]
    backbone = cfg.model.backbone
    arch = ARCHITECTURES[name["arch"]]
    assert (backbone.arch, str(backbone.window_size)) == (arch, name["window"])
    weights = f"swin_{arch}_patch4_window{name['window']}_{PRETRAINING.get(name['window'])}"
    if name["version"]:
        weights = f"swinv2_{arch}_patch4_window8_256."
    assert f"/{weights}" in backbone.init_cfg.checkpoint
    assert backbone.get("version", "v1") == (name["version"] or "v1")
    epochs = int(name["epochs"] or 12 * int(name["times"]))
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[-1].end == epochs
    assert cfg.param_scheduler[-1].milestones[-1] < epochs
    assert cfg.train_dataloader.batch_size == 2
    resizing = cfg.train_pipeline[3].transforms[0][0]
    assert [min(scale) for scale in resizing.scales] == list(range(480, 801, 32))
    assert cfg.optim_wrapper.optimizer.type == "AdamW"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_can_be_killed_and_resumed(path):
    cfg = Config.fromfile(path)
    assert "seed" in cfg.get("randomness", {})
    assert "StepSeedHook" in [hook.type for hook in cfg.get("custom_hooks", [])]
    assert cfg.default_hooks.checkpoint.max_keep_ckpts >= 2


def test_every_epoch_has_an_order_of_its_own(small_config):
    """The sampler is the batch sampler's, and learns of the epoch through mmengine's hook."""
    cfg = small_config(FOLDER / "retinanet_swin-t-p4-w7_fpn_ms-crop-1x_coco.py")
    write_data(cfg.train_dataloader.dataset, [(40, 60)] * 8)
    cfg.train_cfg.update(max_epochs=3, val_interval=5)
    cfg.default_hooks.checkpoint = None
    runner = Runner.from_cfg(cfg)
    orders = [[]]

    class OrderHook(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if batch_idx == 0 and orders[-1]:
                orders.append([])
            orders[-1] += [sample.img_id for sample in data_batch["data_samples"]]

    runner.register_hook(OrderHook())
    runner.train()
    assert [sorted(order) for order in orders] == [list(range(8))] * 3
    assert orders[0] != orders[1] != orders[2]


def test_few_shapes():
    """With the option batches are padded to multiples of 128 pixels."""
    from mmdet.models.data_preprocessors import DetDataPreprocessor

    folder = FOLDER.parent
    config = Config.fromfile(folder / "swin_det/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-1x_coco.py")
    config.merge_from_dict(Config.fromfile(folder / "_base_/options/few_shapes_det.py").to_dict())
    options = config.model.data_preprocessor
    options.pop("type")
    found = set()
    for rows, columns in ((800, 1333), (769, 1290), (640, 1100), (700, 1025)):
        images = [torch.zeros(3, rows, columns, dtype=torch.uint8)]
        batch = DetDataPreprocessor(**options)({"inputs": images, "data_samples": None})
        found.add(tuple(batch["inputs"].shape[2:]))
    assert found == {(896, 1408), (640, 1152), (768, 1152)}
