# Swin-T from random weights, on one GPU with 8 images.
_base_ = [
    "../_base_/models/mask-rcnn_swin.py",
    "../_base_/datasets/nuclei_instance.py",
    "../_base_/detection_runtime.py",
    "../_base_/schedules/schedule_2k_det.py",
]
# Nuclei are about 20 pixels wide, and an image holds up to 375.
model = dict(
    backbone=dict(drop_path_rate=0.1),
    rpn_head=dict(anchor_generator=dict(scales=[4])),
    roi_head=dict(bbox_head=dict(num_classes=1), mask_head=dict(num_classes=1)),
    test_cfg=dict(rcnn=dict(max_per_img=400)),
)
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
log_processor = dict(by_epoch=False)
