# An image's features do not depend on what it is batched with. For weights trained with it.
model = dict(
    data_preprocessor=dict(type="SwinDetDataPreprocessor"),
    backbone=dict(mask_padding=True),
)
