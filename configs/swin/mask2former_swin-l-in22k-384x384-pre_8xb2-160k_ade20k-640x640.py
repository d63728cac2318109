_base_ = "./mask2former_swin-b-in1k-384x384-pre_8xb2-160k_ade20k-640x640.py"
checkpoint_file = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_large_patch4_window12_384_22k_20220412-6580f57d.pth"
model = dict(
    backbone=dict(arch="large", init_cfg=dict(type="Pretrained", checkpoint=checkpoint_file)),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
)
