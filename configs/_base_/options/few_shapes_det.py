# Batches of a detector are padded to whole multiples of 128 pixels instead of 32: few shapes, each of
# which can have CUDA graphs (with "backbone_graphs"), for some more pixels: 800x1333 become 896x1408.
model = dict(data_preprocessor=dict(pad_size_divisor=128))
