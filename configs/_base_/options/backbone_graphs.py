# Backbone and neck of a segmentor or detector are replayed as CUDA graphs, in training and predictions, of
# sizes that come again; after "fast", whose other settings stay.
default_hooks = dict(accelerate=dict(type="AccelerateHook", graphs=True))
