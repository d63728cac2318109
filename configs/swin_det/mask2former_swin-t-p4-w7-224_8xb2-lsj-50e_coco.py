_base_ = [
    "../_base_/models/mask2former_swin_det.py",
    "../_base_/datasets/coco_instance_lsj.py",
    "../_base_/detection_runtime.py",
    "../_base_/schedules/mask2former_50e.py",
]
checkpoint_file = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_tiny_patch4_window7_224_20220317-1cdeb081.pth"
# Things alone, and no map of classes.
num_things_classes = 80
num_stuff_classes = 0
image_size = (1024, 1024)
model = dict(
    data_preprocessor=dict(
        pad_seg=False,
        batch_augments=[
            dict(
                type="BatchFixedSizePad",
                size=image_size,
                img_pad_value=0,
                pad_mask=True,
                mask_pad_value=0,
                pad_seg=False,
            )
        ],
    ),
    backbone=dict(init_cfg=dict(type="Pretrained", checkpoint=checkpoint_file)),
    panoptic_head=dict(
        num_things_classes=num_things_classes,
        num_stuff_classes=num_stuff_classes,
        loss_cls=dict(class_weight=[1.0] * num_things_classes + [0.1]),
    ),
    panoptic_fusion_head=dict(
        num_things_classes=num_things_classes, num_stuff_classes=num_stuff_classes
    ),
    test_cfg=dict(panoptic_on=False),
)
log_processor = dict(by_epoch=False)
