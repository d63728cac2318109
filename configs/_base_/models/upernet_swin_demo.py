# Swin and UPerNet small enough to train on a CPU.
# Batches of few images of generated scenes: with batch norm, evaluation with running statistics
# lost up to 12 points of mIoU from run to run.
norm_cfg = dict(type="GN", num_groups=8, requires_grad=True)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(112, 112),
    ),
    backbone=dict(
        type="SwinBackbone",
        embed_dims=32,
        depths=(1, 1, 2, 1),
        num_heads=(1, 2, 4, 8),
        window_size=7,
        drop_path_rate=0.0,
        out_indices=(0, 1, 2, 3),
    ),
    decode_head=dict(
        type="UPerHead",
        in_channels=[32, 64, 128, 256],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=48,
        dropout_ratio=0.0,
        num_classes=6,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
