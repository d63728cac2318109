_base_ = [
    "../_base_/models/mask2former_swin_det.py",
    "../_base_/datasets/coco_panoptic_lsj.py",
    "../_base_/detection_runtime.py",
    "../_base_/schedules/mask2former_50e.py",
]
checkpoint_file = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_tiny_patch4_window7_224_20220317-1cdeb081.pth"
model = dict(backbone=dict(init_cfg=dict(type="Pretrained", checkpoint=checkpoint_file)))

default_hooks = dict(checkpoint=dict(save_best="coco_panoptic/PQ"))
log_processor = dict(by_epoch=False)
