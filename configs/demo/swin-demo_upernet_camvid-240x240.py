# The demo's small Swin and UPerNet on CamVid: trains on two CPU cores in about twenty minutes.
_base_ = [
    "../_base_/models/upernet_swin_demo.py",
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/schedule_demo.py",
]
crop_size = (240, 240)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(480, 360), ratio_range=(0.6, 1.4), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=1)
test_dataloader = val_dataloader

model = dict(data_preprocessor=dict(size=crop_size), decode_head=dict(num_classes=11))
