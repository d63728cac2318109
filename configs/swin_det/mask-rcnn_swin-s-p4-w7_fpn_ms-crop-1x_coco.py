_base_ = [
    "../_base_/models/mask-rcnn_swin.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/detection_runtime.py",
    "../_base_/schedules/schedule_1x.py",
]
checkpoint_file = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_small_patch4_window7_224_20220317-7ba6d6dd.pth"
model = dict(
    backbone=dict(
        arch="small",
        init_cfg=dict(type="Pretrained", checkpoint=checkpoint_file),
    ),
)
