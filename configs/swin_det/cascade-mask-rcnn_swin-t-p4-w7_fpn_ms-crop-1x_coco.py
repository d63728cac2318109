_base_ = [
    "../_base_/models/cascade-mask-rcnn_swin.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/detection_runtime.py",
    "../_base_/schedules/schedule_1x.py",
]
checkpoint_file = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_tiny_patch4_window7_224_20220317-1cdeb081.pth"
model = dict(
    backbone=dict(
        init_cfg=dict(type="Pretrained", checkpoint=checkpoint_file),
    ),
)

# 8 GPUs with 2 images each.
train_dataloader = dict(batch_size=2)
