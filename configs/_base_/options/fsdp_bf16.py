# As fsdp.py, computing and communicating in bfloat16; parameters and optimizer stay in float32.
# Autocast, too: a head whose scores are resized and judged in bfloat16 loses precision, and on a GPU
# takes longer than in float32, as interpolation's gradient adds up atomically.
optim_wrapper = dict(type="AmpOptimWrapper", dtype="bfloat16", loss_scale=dict(enabled=False))
runner_type = "FlexibleRunner"
strategy = dict(
    type="ResumableFSDPStrategy",
    state_dict_cfg="full",
    model_wrapper=dict(
        type="MMFullyShardedDataParallel",
        auto_wrap_policy="wrap_swin_blocks",
        use_orig_params=True,
        mixed_precision=dict(param_dtype="bfloat16", reduce_dtype="bfloat16"),
    ),
)
