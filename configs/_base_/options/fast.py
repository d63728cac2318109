# All that makes a training run of a segmentor fast on a GPU: faster ways through the model
# (swin_backbone.accelerate), bfloat16, and an optimizer that updates all parameters at once.
_base_ = "amp_bf16.py"
default_hooks = dict(
    accelerate=dict(type="AccelerateHook"),
    compile_ahead=dict(type="CompileAheadHook"),
    end_workers=dict(type="EndWorkersHook"),
)
optim_wrapper = dict(optimizer=dict(fused=True))
env_cfg = dict(cudnn_benchmark=True)
