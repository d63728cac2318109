_base_ = "./dino-4scale_swin-t-p4-w7_8xb2-12e_coco.py"
checkpoint_file = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_large_patch4_window12_384_22k_20220412-6580f57d.pth"
model = dict(
    backbone=dict(
        arch="large",
        window_size=12,
        with_cp=True,
        init_cfg=dict(type="Pretrained", checkpoint=checkpoint_file),
    ),
    neck=dict(in_channels=[384, 768, 1536]),
)
