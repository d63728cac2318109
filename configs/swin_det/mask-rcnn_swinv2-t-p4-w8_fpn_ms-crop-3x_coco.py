_base_ = "./mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py"
checkpoint_file = "https://github.com/SwinTransformer/storage/releases/download/v2.0.0/swinv2_tiny_patch4_window8_256.pth"
model = dict(
    backbone=dict(
        version="v2",
        window_size=8,
        pretrained_window_sizes=(8, 8, 8, 8),
        init_cfg=dict(type="Pretrained", checkpoint=checkpoint_file),
    ),
)
# Neither the position networks nor the factors of the logits decay, as in pretraining.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(cpb_mlp=dict(decay_mult=0.0), logit_scale=dict(decay_mult=0.0))
    )
)
