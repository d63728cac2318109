# No work on the padding of a batch: the backbone computes on the images' own tokens alone.
model = dict(
    data_preprocessor=dict(type="SwinDetDataPreprocessor"),
    backbone=dict(packed=True),
)
