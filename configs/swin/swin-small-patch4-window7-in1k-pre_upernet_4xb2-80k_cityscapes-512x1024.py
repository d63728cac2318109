_base_ = ["./swin-tiny-patch4-window7-in1k-pre_upernet_4xb2-80k_cityscapes-512x1024.py"]
checkpoint_file = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_small_patch4_window7_224_20220317-7ba6d6dd.pth"
model = dict(
    backbone=dict(arch="small", init_cfg=dict(type="Pretrained", checkpoint=checkpoint_file)),
)
