# Forward pass, losses and backward pass of a segmentor are replayed as CUDA graphs, and what predictions
# compute of images. With "fast": mmseg's own losses make the host wait, and cannot be captured.
default_hooks = dict(cuda_graphs=dict(type="CudaGraphHook"))
