# Batches of a detector are padded to whole multiples of 128 pixels instead of 32: few shapes, each of
# which can have a CUDA graph (with "cuda_graphs"), for some more pixels: 800x1333 become 896x1408.
model = dict(data_preprocessor=dict(pad_size_divisor=128))
default_hooks = dict(cuda_graphs=dict(type="CudaGraphHook", most_shapes=16))
