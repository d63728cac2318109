custom_imports = dict(imports=["swin_backbone"], allow_failed_imports=False)
default_scope = "mmseg"
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="SegLocalVisualizer", vis_backends=vis_backends, name="visualizer")
log_processor = dict(by_epoch=False)
log_level = "INFO"
load_from = None
resume = False

# With a seed and StepSeedHook, a run that is killed and resumed draws the same random numbers as
# one that is not. LabelCheckHook names the image in which a label is no class.
randomness = dict(seed=0)
custom_hooks = [dict(type="StepSeedHook"), dict(type="LabelCheckHook")]

tta_model = dict(type="SegTTAModel")
