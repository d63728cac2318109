# Validate and save an exponential moving average of the weights.
default_hooks = dict(ema=dict(type="EMAHook", momentum=0.0002, update_buffers=True))
