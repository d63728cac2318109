# Nuclei of the Data Science Bowl 2018 (BBBC038), images from 256x256 to 1388x1040:
# img_dir/{train,val}/NAME.jpg and ann_dir/{train,val}/NAME.png.
dataset_type = "BaseSegDataset"
data_root = "{{$SWIN_DATA_ROOT:data}}/nuclei"
metainfo = dict(
    classes=("background", "inside", "boundary"),
    palette=[[0, 0, 0], [60, 180, 75], [255, 225, 25]],
)
crop_size = (256, 256)
# Scales are relative to each image's own size. In many images more than 75 % is background.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(
        type="RandomChoice",
        transforms=[
            [dict(type="Resize", scale_factor=ratio, keep_ratio=True)]
            for ratio in (0.75, 1.0, 1.25, 1.5, 2.0)
        ],
    ),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.95),
    dict(
        type="RandomFlip",
        prob=[0.25, 0.25, 0.25],
        direction=["horizontal", "vertical", "diagonal"],
    ),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
# Each image at its own size.
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
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
        data_prefix=dict(img_path="img_dir/train", seg_map_path="ann_dir/train"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(img_path="img_dir/val", seg_map_path="ann_dir/val"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
