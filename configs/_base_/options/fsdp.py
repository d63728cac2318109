# Parameters, gradients and optimizer states are spread over the processes, and each Swin block is
# gathered when it is needed. Checkpoints are whole, as those of DDP. In the backward pass the next block is
# gathered while one computes, as PyTorch does by default; mmengine's wrapper leaves that out.
runner_type = "FlexibleRunner"
strategy = dict(
    type="ResumableFSDPStrategy",
    state_dict_cfg="full",
    model_wrapper=dict(
        type="MMFullyShardedDataParallel",
        auto_wrap_policy="wrap_swin_blocks",
        use_orig_params=True,
        backward_prefetch="BACKWARD_PRE",
    ),
)
