_base_ = ["./swin-base-patch4-window12-in1k-384x384-pre_upernet_8xb2-160k_ade20k-512x512.py"]
checkpoint_file = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_base_patch4_window12_384_22k_20220317-e5c09f74.pth"
model = dict(
    backbone=dict(init_cfg=dict(type="Pretrained", checkpoint=checkpoint_file)),
)
