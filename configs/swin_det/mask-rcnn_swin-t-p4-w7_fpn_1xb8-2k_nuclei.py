# Swin-T from random weights, on one GPU with 8 images.
_base_ = [
    "../_base_/models/mask-rcnn_swin.py",
    "../_base_/datasets/nuclei_instance.py",
    "../_base_/detection_runtime.py",
    "../_base_/schedules/schedule_1x.py",
]
# Nuclei are about 20 pixels wide, and an image holds up to 375.
model = dict(
    backbone=dict(drop_path_rate=0.1),
    rpn_head=dict(anchor_generator=dict(scales=[4])),
    roi_head=dict(bbox_head=dict(num_classes=1), mask_head=dict(num_classes=1)),
    test_cfg=dict(rcnn=dict(max_per_img=400)),
)
max_iters = 2000
optim_wrapper = dict(optimizer=dict(lr=2e-4), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=200),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=200, end=max_iters, eta_min=0.0),
]
train_cfg = dict(
    _delete_=True, type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters
)
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=500),
)
log_processor = dict(by_epoch=False)
