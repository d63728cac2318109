# Parameters, gradients and optimizer states are spread over the processes, and each Swin block is
# gathered when it is needed. Checkpoints are whole, as those of DDP. The next block is gathered while one
# computes, in both directions; mmengine's wrapper leaves that out unless it is asked for.
runner_type = "FlexibleRunner"
strategy = dict(
    type="ResumableFSDPStrategy",
    state_dict_cfg="full",
    model_wrapper=dict(
        type="MMFullyShardedDataParallel",
        auto_wrap_policy="wrap_swin_blocks",
        use_orig_params=True,
        backward_prefetch="BACKWARD_PRE",
        forward_prefetch=True,
    ),
)
