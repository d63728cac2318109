_base_ = ["./swin-base-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py"]
checkpoint_file = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_base_patch4_window7_224_22k_20220317-4f79f7c0.pth"
model = dict(
    backbone=dict(init_cfg=dict(type="Pretrained", checkpoint=checkpoint_file)),
)
