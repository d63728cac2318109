# Swin-T from random weights, on one GPU with 8 images: instances, at all parameters one rate.
_base_ = [
    "../_base_/models/mask2former_swin_det.py",
    "../_base_/datasets/nuclei_instance.py",
    "../_base_/detection_runtime.py",
    "../_base_/schedules/schedule_1x.py",
]
num_things_classes = 1
num_stuff_classes = 0
# An image holds up to 375 nuclei. Crops have a seventh of the pixels of COCO's 1024x1024, and a quarter
# of the points that losses look at. Batches are padded to their largest image, of 384x384 mostly.
model = dict(
    data_preprocessor=dict(pad_seg=False, batch_augments=None),
    backbone=dict(drop_path_rate=0.1),
    panoptic_head=dict(
        num_things_classes=num_things_classes,
        num_stuff_classes=num_stuff_classes,
        num_queries=300,
        loss_cls=dict(class_weight=[1.0] * num_things_classes + [0.1]),
    ),
    panoptic_fusion_head=dict(
        num_things_classes=num_things_classes, num_stuff_classes=num_stuff_classes
    ),
    train_cfg=dict(num_points=3136),
    test_cfg=dict(panoptic_on=False, max_per_image=300),
)
max_iters = 2000
embedding = dict(decay_mult=0.0)
optim_wrapper = dict(
    optimizer=dict(lr=2e-4),
    paramwise_cfg=dict(
        custom_keys={"query_embed": embedding, "query_feat": embedding, "level_embed": embedding}
    ),
    clip_grad=dict(max_norm=0.01),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=200),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=200, end=max_iters, eta_min=0.0),
]
train_cfg = dict(
    _delete_=True, type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters
)
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=500, save_best="coco/segm_mAP"),
)
log_processor = dict(by_epoch=False)
