# ATSS (https://arxiv.org/abs/1912.02424) with six dynamic heads (https://arxiv.org/abs/2106.08322)
# on Swin-L. For another size, set the backbone's arch and window_size, and the in_channels of the
# FPN: those of the last three stages.
data_preprocessor = dict(
    type="DetDataPreprocessor",
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_size_divisor=128,
)
model = dict(
    type="ATSS",
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type="SwinBackbone",
        arch="large",
        window_size=12,
        drop_path_rate=0.2,
        out_indices=(1, 2, 3),
    ),
    neck=[
        dict(
            type="FPN",
            in_channels=[384, 768, 1536],
            out_channels=256,
            start_level=0,
            add_extra_convs="on_output",
            num_outs=5,
        ),
        dict(
            type="DyHead", in_channels=256, out_channels=256, num_blocks=6, zero_init_offset=False
        ),
    ],
    bbox_head=dict(
        type="ATSSHead",
        num_classes=80,
        in_channels=256,
        pred_kernel_size=1,
        stacked_convs=0,
        feat_channels=256,
        anchor_generator=dict(
            type="AnchorGenerator",
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=1,
            strides=[8, 16, 32, 64, 128],
            center_offset=0.5,
        ),
        bbox_coder=dict(
            type="DeltaXYWHBBoxCoder",
            target_means=[0.0, 0.0, 0.0, 0.0],
            target_stds=[0.1, 0.1, 0.2, 0.2],
        ),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
        loss_centerness=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(type="ATSSAssigner", topk=9), allowed_border=-1, pos_weight=-1, debug=False
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type="nms", iou_threshold=0.6),
        max_per_img=100,
    ),
)
