# ZeRO, stage 2: gradients and optimizer states are spread over the processes. Needs deepspeed.
runner_type = "FlexibleRunner"
strategy = dict(
    type="DeepSpeedStrategy",
    bf16=dict(enabled=True),
    zero_optimization=dict(stage=2, overlap_comm=True, contiguous_gradients=True),
)
optim_wrapper = dict(type="DeepSpeedOptimWrapper")
