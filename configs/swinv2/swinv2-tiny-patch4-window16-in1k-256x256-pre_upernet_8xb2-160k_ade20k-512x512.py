_base_ = ["./swinv2-tiny-patch4-window8-in1k-256x256-pre_upernet_8xb2-160k_ade20k-512x512.py"]
checkpoint_file = "https://github.com/SwinTransformer/storage/releases/download/v2.0.0/swinv2_tiny_patch4_window16_256.pth"
model = dict(
    backbone=dict(
        window_size=16,
        pretrained_window_sizes=(16, 16, 16, 8),
        init_cfg=dict(type="Pretrained", checkpoint=checkpoint_file),
    ),
)
