_base_ = "./mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco-panoptic.py"
checkpoint_file = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_large_patch4_window12_384_22k_20220412-6580f57d.pth"
model = dict(
    backbone=dict(
        arch="large",
        window_size=12,
        init_cfg=dict(type="Pretrained", checkpoint=checkpoint_file),
    ),
    panoptic_head=dict(num_queries=200, in_channels=[192, 384, 768, 1536]),
)

# 100 epochs on 16 GPUs with one image each.
train_dataloader = dict(batch_size=1)
max_iters = 737500
interval = 5000
param_scheduler = dict(end=max_iters, milestones=[655556, 710184])
train_cfg = dict(
    max_iters=max_iters,
    dynamic_intervals=[(max_iters // interval * interval + 1, max_iters)],
)
