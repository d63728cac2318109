# Swin-T from random weights, on one GPU with 8 images: instances, at all parameters one rate.
_base_ = [
    "../_base_/models/mask2former_swin_det.py",
    "../_base_/datasets/nuclei_instance.py",
    "../_base_/detection_runtime.py",
    "../_base_/schedules/schedule_2k_det.py",
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
embedding = dict(decay_mult=0.0)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={"query_embed": embedding, "query_feat": embedding, "level_embed": embedding}
    ),
    clip_grad=dict(max_norm=0.01),
)
default_hooks = dict(checkpoint=dict(save_best="coco/segm_mAP"))
log_processor = dict(by_epoch=False)
