# Nuclei of the Data Science Bowl 2018 (BBBC038) as instances, images from 256x256 to 1388x1040:
# img_dir/{train,val}/NAME.jpg and annotations/instances_{train,val}.json in COCO's format.
dataset_type = "CocoDataset"
data_root = "{{$SWIN_DATA_ROOT:data}}/nuclei/"
metainfo = dict(classes=("nucleus",), palette=[(60, 180, 75)])
# Crops become 384x384, or smaller where a crop of an oblong image does: scales from 1 to 2, since
# nuclei are about 20 pixels wide. Cropping comes first: a resized image of 1024x1024 with 300 masks
# would take a gigabyte.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="RandomChoice",
        transforms=[
            [dict(type="RandomCrop", crop_size=(side, side), allow_negative_crop=False)]
            for side in (192, 256, 312, 384)
        ],
    ),
    dict(type="Resize", scale=(384, 384), keep_ratio=True),
    dict(
        type="RandomFlip",
        prob=[0.25, 0.25, 0.25],
        direction=["horizontal", "vertical", "diagonal"],
    ),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale_factor=1.5, keep_ratio=True),  # the metric reads annotations itself
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        ann_file="annotations/instances_train.json",
        data_prefix=dict(img="img_dir/train/"),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        ann_file="annotations/instances_val.json",
        data_prefix=dict(img="img_dir/val/"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(
    type="CocoMetric",
    ann_file=data_root + "annotations/instances_val.json",
    metric=["bbox", "segm"],
)
test_evaluator = val_evaluator
