# Parameters, gradients and optimizer states are spread over the processes, and each Swin block is
# gathered when it is needed. Checkpoints are whole, as those of DDP.
runner_type = "FlexibleRunner"
strategy = dict(
    type="ResumableFSDPStrategy",
    state_dict_cfg="full",
    model_wrapper=dict(
        type="MMFullyShardedDataParallel",
        auto_wrap_policy="wrap_swin_blocks",
        use_orig_params=True,
    ),
)
