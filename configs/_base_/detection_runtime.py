custom_imports = dict(imports=["swin_backbone"], allow_failed_imports=False)
default_scope = "mmdet"
# Images have many sizes, and cuDNN would search its kernels again for each.
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="DetLocalVisualizer", vis_backends=vis_backends, name="visualizer")
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=True)
log_level = "INFO"
load_from = None
resume = False

# With a seed and StepSeedHook, a run that is killed and resumed draws the same random numbers as
# one that is not. mmdet's NumClassCheckHook compares the heads with the data set.
randomness = dict(seed=0)
custom_hooks = [dict(type="StepSeedHook"), dict(type="NumClassCheckHook")]
