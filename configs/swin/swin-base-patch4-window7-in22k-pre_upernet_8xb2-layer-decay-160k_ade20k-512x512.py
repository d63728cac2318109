# Layer-wise learning-rate decay: each block towards the image learns 0.9 times as fast as the next,
# the heads at the whole rate, which can therefore be higher.
_base_ = ["./swin-base-patch4-window7-in22k-pre_upernet_8xb2-160k_ade20k-512x512.py"]
optim_wrapper = dict(
    constructor="SwinLayerDecayOptimWrapperConstructor",
    optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(layer_decay_rate=0.9),
)
