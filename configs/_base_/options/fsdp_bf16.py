# As fsdp.py, computing and communicating in bfloat16; parameters and optimizer stay in float32.
# Autocast, too: a head whose scores are resized and judged in bfloat16 loses precision, and on a GPU
# takes longer than in float32, as interpolation's gradient adds up atomically.
_base_ = ["fsdp.py", "amp_bf16.py"]
strategy = dict(
    model_wrapper=dict(mixed_precision=dict(param_dtype="bfloat16", reduce_dtype="bfloat16"))
)
