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
CHANNELS_OF_STAGES = (8, 16, 32, 64, 128)
#: Names of sizes in rows and columns.
SIZES = {"scale", "crop_size", "img_scale"}
#: Of sizes that images are padded to: some necks want whole numbers of their coarsest pixels.
PADDED = {"size"}
NUMBERS = {"num", "nms_pre", "max_per_img", "max_per_image", "num_queries"}  # of boxes


def small_detector(path, layers=2) -> Config:
    """The config with a backbone of 5 blocks, with fewer channels, boxes and pixels, and encoders
    and decoders of ``layers``."""
    # Formatting a config costs more than training one small step.
    cfg = Config(Config.fromfile(path).to_dict(), format_python_code=False)
    shrink_model(cfg.model, layers)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        shrink(innermost(loader.dataset).pipeline)
        loader.update(num_workers=0, persistent_workers=False)
    for hook in cfg.get("custom_hooks", []):
        shrink(hook.get("switch_pipeline"))
    cfg.train_dataloader.batch_size = 2
    return cfg


def shrink_model(model, layers=2) -> None:
    """A model's config, made small, with this project's backbone or another's."""
    for name in ("arch", "init_cfg", "pretrained"):
        model.backbone.pop(name, None)
    # The classic line encodes DINO's queries in 256 channels, whatever the config says.
    shrink(model, NUMBERS if model.type == "DINO" else NUMBERS | CHANNELS)
    stages = len(model.backbone.get("depths", CHANNELS_OF_STAGES[:4]))
    model.backbone.update(
        embed_dims=8, depths=(1, 2, 1, 1, 1)[:stages], num_heads=(1, 2, 4, 8, 8)[:stages]
    )
    _first_after_backbone(model).in_channels = [
        CHANNELS_OF_STAGES[i] for i in model.backbone.get("out_indices", range(stages))
    ]
    _shrink_decoders(model, layers)
    test_cfg = model.test_cfg.get("rcnn", model.test_cfg)
    if "score_thr" in test_cfg:
        test_cfg.update(score_thr=0.0)  # an untrained model is sure of nothing


def _first_after_backbone(model) -> dict:
    """The part that takes the backbone's maps."""
    for name in ("neck", "panoptic_head", "decode_head"):
        if name in model:
            part = model[name]
            return part[0] if isinstance(part, list) else part
    raise ValueError(f"the model has neither a neck nor a head of masks, got {sorted(model)}")


def _shrink_decoders(value, layers) -> None:
    """Layers of transformers, and fewer points to compare masks at, wherever in a config."""
    if isinstance(value, list):
        for item in value:
            _shrink_decoders(item, layers)
    elif isinstance(value, dict):
        if "num_layers" in value:
            value["num_layers"] = layers
        if "importance_sample_ratio" in value:
            value["num_points"] = 60
        for item in value.values():
            _shrink_decoders(item, layers)


def innermost(dataset: dict) -> dict:
    """The data set that others repeat."""
    return innermost(dataset.dataset) if "dataset" in dataset else dataset


def shrink(value, integers: set[str] = frozenset()) -> None:
    """Divide image sizes and the named integers, wherever in a config, by :data:`SHRINK`."""
    if isinstance(value, list):
        for item in value:
            shrink(item, integers)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in integers and isinstance(item, int):
                value[name] = item // SHRINK
            elif name in PADDED and not isinstance(item, int):
                value[name] = tuple(-(-side // SHRINK // 64) * 64 for side in item)
            elif name in SIZES and not isinstance(item, int):
                value[name] = _shrunk(item)
            elif name == "scales" and isinstance(item[0], (list, tuple)):
                value[name] = [_shrunk(scale) for scale in item]
            else:
                shrink(item, integers)


def _shrunk(size):
    """A size, or a list of sizes."""
    if isinstance(size, int):
        return size // SHRINK
    return type(size)(map(_shrunk, size))


def write_data(dataset: dict, sizes) -> None:
    """Generated images of ``sizes`` (rows, columns) and instances where a dataset looks."""
    from mmdet.registry import DATASETS

    dataset = innermost(dataset)
    metainfo = dataset.get("metainfo") or DATASETS.get(dataset.type).METAINFO
    root = Path(dataset.data_root)
    write_coco(root / dataset.data_prefix.img, root / dataset.ann_file, sizes, metainfo["classes"])
