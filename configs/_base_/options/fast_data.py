# Training data that keep up with a fast card, from few cores: transforms that do less, batches of
# bytes, distortion and normalisation on the device, losses that are read when they are logged.
# What replaces the transforms of the config's pipeline is chosen when the option is applied.
default_hooks = dict(runtime_info=dict(type="DeferredRuntimeInfoHook"))
