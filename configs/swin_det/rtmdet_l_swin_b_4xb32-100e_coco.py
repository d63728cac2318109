_base_ = [
    "../_base_/models/rtmdet_swin.py",
    "../_base_/datasets/coco_detection_mosaic.py",
    "../_base_/detection_runtime.py",
    "../_base_/schedules/rtmdet_100e.py",
]
checkpoint_file = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_base_patch4_window12_384_22k_20220317-e5c09f74.pth"
model = dict(backbone=dict(init_cfg=dict(type="Pretrained", checkpoint=checkpoint_file)))

# A run that is killed and resumed fills the caches of images for mosaics and mixtures anew.
custom_hooks = [
    dict(type="StepSeedHook"),
    dict(type="NumClassCheckHook"),
    dict(
        type="EMAHook",
        ema_type="ExpMomentumEMA",
        momentum=0.0002,
        update_buffers=True,
        priority=49,
    ),
    dict(
        type="PipelineSwitchHook",
        switch_epoch=90,
        switch_pipeline={{_base_.train_pipeline_stage2}},
    ),
]
