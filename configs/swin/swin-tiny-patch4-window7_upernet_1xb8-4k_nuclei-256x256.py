# Swin-T from random weights, on one GPU with 8 images.
_base_ = [
    "../_base_/models/upernet_swin.py",
    "../_base_/datasets/nuclei.py",
    "../_base_/default_runtime.py",
    "../_base_/schedules/schedule_4k.py",
]
crop_size = (256, 256)
norm_cfg = dict(type="BN", requires_grad=True)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(drop_path_rate=0.1),
    decode_head=dict(num_classes=3, norm_cfg=norm_cfg),
    auxiliary_head=dict(num_classes=3, norm_cfg=norm_cfg),
)

# Validation images have many sizes, and cuDNN would search its kernels again for each.
env_cfg = dict(cudnn_benchmark=False)

train_dataloader = dict(batch_size=8)
