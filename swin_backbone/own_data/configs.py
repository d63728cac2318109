"""The text of a config for one's own data: short, and to be edited."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .coco import CocoFile
from .folders import Split
from .machine import Machine, crop_side
from .models import Model
from .segmentation import LabelMaps

HEAD = """\
# Written by 'swin-backbone new' for {data}:
# {counts}; steps, crop and batch are for {machine}.
_base_ = [
    __import__("swin_backbone").config_path(f"_base_/{{part}}")
    for part in ({parts})
]
"""
_SEGMENTATION = """\
data_root = {root}
metainfo = dict(
    classes={classes},
    palette={palette},
)
crop_size = ({side}, {side})

{norm}model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict({backbone}),
    {neck}decode_head=dict({head}),
    {auxiliary}{test}
)

load_labels = {loading}
train_pipeline = [
    dict(type="LoadImageFromFile"),
    load_labels,
    dict(
        type="RandomChoice",
        transforms=[
            [dict(type="Resize", scale_factor=ratio, keep_ratio=True)]
            for ratio in (0.75, 1.0, 1.25, 1.5)
        ],
    ),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.95),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [dict(type="LoadImageFromFile"), load_labels, dict(type="PackSegInputs")]
train_dataloader = dict(
    batch_size={batch},
    num_workers={workers},
    persistent_workers={persistent},
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="BaseSegDataset",
        data_root=data_root,
        metainfo=metainfo,
        {train_files}
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers={workers},
    persistent_workers={persistent},
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="BaseSegDataset",
        data_root=data_root,
        metainfo=metainfo,
        {val_files}
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
"""
_DETECTION = """\
data_root = {root}
metainfo = dict(classes={classes})
scale = ({side}, {side})  # of images, longest sides in pixels

model = dict(
    {kind}backbone=dict({backbone}),
    neck=dict(in_channels={channels}),
    {heads}
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask={masks}),
    dict(type="Resize", scale=scale, keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=scale, keep_ratio=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
train_dataloader = dict(
    batch_size={batch},
    num_workers={workers},
    persistent_workers={persistent},
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="CocoDataset",
        data_root=data_root,
        metainfo=metainfo,
        {train_files}
        filter_cfg=dict(filter_empty_gt=True, min_size=1),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers={workers},
    persistent_workers={persistent},
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CocoDataset",
        data_root=data_root,
        metainfo=metainfo,
        {val_files}
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="CocoMetric", ann_file=val_dataloader["dataset"]["ann_file"], metric={metric}
)
test_evaluator = val_evaluator
"""
_SCHEDULE = """\

max_iters = {steps}
train_cfg = dict({delete}type="IterBasedTrainLoop", max_iters=max_iters, val_interval={every})
optim_wrapper = dict(optimizer=dict(lr={rate:g}), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end={warm_up}),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin={warm_up}, end=max_iters),
]
default_hooks = dict(
    logger=dict(interval=10, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval={every}),
)
log_processor = dict(by_epoch=False)
"""


def segmentation_config(
    data: Path,
    maps: LabelMaps,
    names: Sequence[str],
    palette: Sequence[Sequence[int]],
    splits: Mapping[str, Split],
    lists: Mapping[str, Path],
    model: Model,
    machine: Machine,
    pretrained: str | None,
) -> str:
    """A config that trains a segmentor.

    Args:
        data: the data's folder.
        maps: what its label maps hold.
        names: of the classes.
        palette: their colours.
        splits: ``'train'`` and ``'val'``.
        lists: files that name the images of each, where folders do not.
        model: what to train.
        machine: what it runs on.
        pretrained: path, address or name of the backbone's weights.
    """
    side = crop_side(machine, maps.sizes)
    batch = machine.batch(side**2)
    norm = "norm_cfg=norm_cfg"
    head = f"num_classes={len(names)}, {norm}"
    large = max(width * height for width, height in maps.sizes) > 4 * machine.largest_side**2
    counts = {name: len(split.names) for name, split in splits.items()}
    return _head(
        data, counts, machine, (model.base, "default_runtime", "schedules/schedule_4k")
    ) + (
        _SEGMENTATION.format(
            root=code(str(data.resolve())),
            classes=_listed(names),
            palette=_listed([list(map(int, colour)) for colour in palette]),
            side=side,
            norm='norm_cfg = dict(type="BN", requires_grad=True)\n',
            backbone=_backbone(model, pretrained),
            neck=f"neck=dict(in_channels={model.channels}),\n    " if model.family == "fpn" else "",
            head=head if model.family == "fpn" else f"in_channels={model.channels}, {head}",
            auxiliary=""
            if model.family == "fpn"
            else f"auxiliary_head=dict(in_channels={model.channels[2]}, {head}),\n    ",
            test=f'test_cfg=dict(mode="slide", crop_size=crop_size, stride=({2 * side // 3},) * 2),'
            if large
            else 'test_cfg=dict(mode="whole"),',
            loading=_loading(maps),
            batch=batch,
            workers=machine.workers,
            persistent=machine.workers > 0,
            train_files=_segmentation_files(splits["train"], lists.get("train")),
            val_files=_segmentation_files(splits["val"], lists.get("val")),
        )
        + _schedule(machine, counts["train"], batch, pretrained, False)
    )


def detection_config(
    data: Path,
    splits: Mapping[str, CocoFile],
    files: Mapping[str, Path],
    counts: Mapping[str, int],
    model: Model,
    machine: Machine,
    pretrained: str | None,
) -> str:
    """A config that trains a detector.

    Args:
        data: the data's folder.
        splits: ``'train'`` and ``'val'``.
        files: the files of annotations that each reads.
        counts: images of each.
        model: what to train.
        machine: what it runs on.
        pretrained: path, address or name of the backbone's weights.
    """
    train = splits["train"]
    longest = sorted(max(size) for size in train.sizes)[len(train.sizes) // 2]
    side = max(256, min(longest, 2 * machine.largest_side) // 32 * 32)
    batch = machine.batch(side**2)
    masks = train.has_masks and model.family == "mask-rcnn"
    root = data.resolve()
    prefixes = {
        name: one.folder.resolve().relative_to(root).as_posix() for name, one in splits.items()
    }
    texts = {
        name: f"ann_file={code(str(files[name]))},\n"
        f"        data_prefix=dict(img={code(prefixes[name])}),"
        for name in splits
    }
    head = _head(data, counts, machine, (model.base, "detection_runtime", "schedules/schedule_1x"))
    return head + (
        _DETECTION.format(
            root=code(str(root)),
            classes=_listed(train.classes),
            side=side,
            kind='type="FasterRCNN",\n    ' if model.family == "faster-rcnn" else "",
            backbone=_backbone(model, pretrained),
            channels=model.channels[1:] if model.family == "retinanet" else model.channels,
            heads=_detection_heads(train, model, side / max(longest, 1)),
            masks=masks,
            batch=batch,
            workers=machine.workers,
            persistent=machine.workers > 0,
            train_files=texts["train"],
            val_files=texts["val"],
            metric=code(["bbox", "segm"] if masks else "bbox"),
        )
        + _schedule(machine, counts["train"], batch, pretrained, True)
    )


def _head(data: Path, counts: Mapping[str, int], machine: Machine, parts: Sequence[str]) -> str:
    return HEAD.format(
        data=data,
        counts=f"{counts['train']} images to train on, {counts['val']} to validate on",
        machine=f"a {machine.name}",
        parts=", ".join(f'"{part}"' for part in parts),
    )


def _backbone(model: Model, pretrained: str | None) -> str:
    settings: dict[str, Any] = dict(model.backbone)
    settings["drop_path_rate"] = 0.2 if pretrained else 0.1
    text = ", ".join(f"{key}={code(value)}" for key, value in settings.items())
    if pretrained:
        text += f', init_cfg=dict(type="Pretrained", checkpoint={code(pretrained)})'
    return text


def _loading(maps: LabelMaps) -> str:
    if maps.kind == "indices" and maps.one_channel:
        return 'dict(type="LoadAnnotations")'
    name = "colours" if maps.kind == "colours" else "values"
    return f'dict(type="LoadMappedLabels", {name}={_listed(maps.labels)})'


def _segmentation_files(split: Split, listed: Path | None) -> str:
    lines = [
        f"data_prefix=dict(img_path={code(split.images)}, seg_map_path={code(split.labels)}),",
        f"img_suffix={code(split.image_suffix)},",
        f"seg_map_suffix={code(split.label_suffix)},",
    ]
    if listed is not None:
        lines.append(f"ann_file={code(str(listed))},")
    return "\n        ".join(lines)


def _detection_heads(train: CocoFile, model: Model, ratio: float) -> str:
    """Classes of the heads; smaller anchors for small objects; room for as many as there are."""
    number = f"num_classes={len(train.classes)}"
    if model.family == "retinanet":
        return f"bbox_head=dict({number}),"
    mask = f"mask_head=dict({number})" if model.family == "mask-rcnn" else ""
    without = "mask_head=None, mask_roi_extractor=None"
    lines = [f"roi_head=dict(bbox_head=dict({number}), {mask or without}),"]
    if train.median_side * ratio < 32:  # of what anchors are by default at the finest map
        lines.append("rpn_head=dict(anchor_generator=dict(scales=[4])),")
    if train.most > 100:
        lines.append(f"test_cfg=dict(rcnn=dict(max_per_img={-(-train.most // 100) * 100})),")
    return "\n    ".join(lines)


def _schedule(
    machine: Machine, images: int, batch: int, pretrained: str | None, detects: bool
) -> str:
    steps = machine.steps(images, batch)
    return _SCHEDULE.format(
        steps=steps,
        every=max(1, steps // 4),
        warm_up=min(200, steps // 10),
        rate=6e-5 if pretrained else 2e-4,
        delete="_delete_=True, " if detects else "",
    )


def code(value: Any) -> str:
    """A value as Python, with the quotes that formatters make."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(code, value))}]"
    return repr(value)


def _listed(values: Sequence[Any]) -> str:
    """A list as code, a line an entry where it is long."""
    text = code(list(values))
    if len(text) < 70:
        return text
    lines = "".join(f"        {code(value)},\n" for value in values)
    return f"[\n{lines}    ]"
