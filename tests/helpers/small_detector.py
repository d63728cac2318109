"""Configs of detectors, shrunk so that a step takes a moment, and data for them."""

from pathlib import Path

from mmengine.config import Config

from .instances import write_coco

SHRINK = 8
CHANNELS = {
    "in_channels",
    "out_channels",
    "feat_channels",
    "conv_out_channels",
    "fc_out_channels",
    "embed_dims",
    "feedforward_channels",
    "num_feats",
    "num_groups",
}
NUMBERS = {"num", "nms_pre", "max_per_img", "num_queries"}  # of boxes


def small_detector(path) -> Config:
    """The config with a backbone of 5 blocks, and with fewer channels, boxes and pixels."""
    # Formatting a config costs more than training one small step.
    cfg = Config(Config.fromfile(path).to_dict(), format_python_code=False)
    for name in ("arch", "init_cfg"):
        cfg.model.backbone.pop(name, None)
    # The classic line encodes DINO's queries in 256 channels, whatever the config says.
    shrink(cfg.model, NUMBERS if cfg.model.type == "DINO" else NUMBERS | CHANNELS)
    cfg.model.backbone.update(embed_dims=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 8))
    channels = [8, 16, 32, 64]
    cfg.model.neck.in_channels = [channels[i] for i in cfg.model.backbone.out_indices]
    test_cfg = cfg.model.test_cfg.get("rcnn", cfg.model.test_cfg)
    test_cfg.update(score_thr=0.0)  # an untrained model is sure of nothing
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        shrink(loader.dataset.pipeline)
        loader.update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.batch_size = 2
    return cfg


def shrink(value, integers: set[str] = frozenset()) -> None:
    """Divide image sizes and the named integers, wherever in a config, by :data:`SHRINK`."""
    if isinstance(value, list):
        for item in value:
            shrink(item, integers)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in integers and isinstance(item, int):
                value[name] = item // SHRINK
            elif name in ("scale", "crop_size") and not isinstance(item, int):
                value[name] = tuple(side // SHRINK for side in item)
            elif name == "scales" and isinstance(item[0], (list, tuple)):
                value[name] = [tuple(side // SHRINK for side in scale) for scale in item]
            else:
                shrink(item, integers)


def write_data(dataset: dict, sizes) -> None:
    """Generated images of ``sizes`` (rows, columns) and instances where a dataset looks."""
    from mmdet.registry import DATASETS

    metainfo = dataset.get("metainfo") or DATASETS.get(dataset.type).METAINFO
    root = Path(dataset.data_root)
    write_coco(root / dataset.data_prefix.img, root / dataset.ann_file, sizes, metainfo["classes"])
