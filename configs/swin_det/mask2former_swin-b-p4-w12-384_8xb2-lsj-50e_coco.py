_base_ = "./mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py"
checkpoint_file = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_base_patch4_window12_384_20220317-55b0104a.pth"
model = dict(
    backbone=dict(
        arch="base",
        window_size=12,
        init_cfg=dict(type="Pretrained", checkpoint=checkpoint_file),
    ),
    panoptic_head=dict(in_channels=[128, 256, 512, 1024]),
)
