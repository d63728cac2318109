_base_ = [
    "../_base_/models/upernet_swin.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/default_runtime.py",
    "../_base_/schedules/schedule_160k.py",
]
crop_size = (512, 512)
checkpoint_file = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_tiny_patch4_window7_224_20220317-1cdeb081.pth"
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(init_cfg=dict(type="Pretrained", checkpoint=checkpoint_file)),
)

# 8 GPUs with 2 images each.
train_dataloader = dict(batch_size=2)
