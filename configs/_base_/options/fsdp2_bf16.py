# As fsdp2.py, with mixed precision: blocks' parameters travel and compute in bfloat16, gradients are
# averaged in float32; parameters, the optimizer and batch norms stay in float32.
_base_ = ["fsdp2.py", "amp_bf16.py"]
strategy = dict(param_dtype="bfloat16", reduce_dtype="float32")
