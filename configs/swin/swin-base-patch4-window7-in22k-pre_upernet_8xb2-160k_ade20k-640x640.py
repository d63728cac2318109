_base_ = [
    "../_base_/models/upernet_swin.py",
    "../_base_/datasets/ade20k_640x640.py",
    "../_base_/default_runtime.py",
    "../_base_/schedules/schedule_160k.py",
]
crop_size = (640, 640)
checkpoint_file = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_base_patch4_window7_224_22k_20220317-4f79f7c0.pth"
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(arch="base", init_cfg=dict(type="Pretrained", checkpoint=checkpoint_file)),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)

# 8 GPUs with 2 images each.
train_dataloader = dict(batch_size=2)
