_base_ = [
    "../_base_/models/cascade-mask-rcnn_swin.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/detection_runtime.py",
    "../_base_/schedules/schedule_1x.py",
]
checkpoint_file = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_base_patch4_window7_224_20220317-e9b98025.pth"
model = dict(
    backbone=dict(
        arch="base",
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint=checkpoint_file),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
