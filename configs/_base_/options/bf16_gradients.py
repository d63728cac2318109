# Processes average their gradients in bfloat16: half the bytes between GPUs, and 8 bits of precision.
default_hooks = dict(gradients=dict(type="CompressGradientsHook"))
