_base_ = "./mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py"
checkpoint_file = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_small_patch4_window7_224_20220317-7ba6d6dd.pth"
model = dict(
    backbone=dict(arch="small", init_cfg=dict(type="Pretrained", checkpoint=checkpoint_file))
)
