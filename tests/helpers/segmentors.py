"""Small segmentors of mmseg with each of its usual heads, and batches for them."""

import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData

CHANNELS = [8, 16, 32, 64]
CLASSES = 5
NORM = {"type": "BN"}
LOSS = {"type": "CrossEntropyLoss"}
ALL = {"in_channels": CHANNELS, "in_index": [0, 1, 2, 3]}


def _head(kind, **options):
    settings = {
        "channels": 8,
        "dropout_ratio": 0.0,
        "num_classes": CLASSES,
        "norm_cfg": NORM,
        "align_corners": False,
        "loss_decode": LOSS,
    }
    return {"type": kind, **settings, **options}


def _knet():
    update = {
        "type": "KernelUpdateHead",
        "num_classes": CLASSES,
        "num_ffn_fcs": 2,
        "num_heads": 2,
        "num_mask_fcs": 1,
        "feedforward_channels": 16,
        "in_channels": 8,
        "out_channels": 8,
        "dropout": 0.0,
        "conv_kernel_size": 1,
        "ffn_act_cfg": {"type": "ReLU", "inplace": True},
        "with_ffn": True,
        "feat_transform_cfg": {"conv_cfg": {"type": "Conv2d"}, "act_cfg": None},
        "kernel_updator_cfg": {
            "type": "KernelUpdator",
            "in_channels": 8,
            "feat_channels": 8,
            "out_channels": 8,
            "act_cfg": {"type": "ReLU", "inplace": True},
            "norm_cfg": {"type": "LN"},
        },
    }
    generate = _head("FCNHead", in_channels=32, in_index=2, num_convs=1)
    return {
        "type": "IterativeDecodeHead",
        "num_stages": 2,
        "kernel_update_head": [update, update],
        "kernel_generate_head": generate,
    }


FCN = _head("FCNHead", in_channels=32, in_index=2, num_convs=1)
#: By name: decode heads, the last of which predicts.
HEADS = {
    "UPer": [_head("UPerHead", **ALL, pool_scales=(1, 2))],
    "FPN": [_head("FPNHead", **ALL, feature_strides=[4, 8, 16, 32])],
    "FCN": [_head("FCNHead", in_channels=64, in_index=3, num_convs=2)],
    "PSP": [_head("PSPHead", in_channels=64, in_index=3, pool_scales=(1, 2))],
    "ASPP": [_head("ASPPHead", in_channels=64, in_index=3, dilations=(1, 2))],
    "SepASPP": [
        _head(
            "DepthwiseSeparableASPPHead",
            in_channels=64,
            in_index=3,
            dilations=(1, 2),
            c1_in_channels=8,
            c1_channels=4,
        )
    ],
    "Segformer": [_head("SegformerHead", **ALL)],
    "OCR": [FCN, _head("OCRHead", in_channels=32, in_index=2, ocr_channels=8)],
    "KNet": [_knet()],
}


def segmentor(head="UPer", auxiliary=True, backbone="SwinBackbone", align_corners=False, **options):
    """A small segmentor; ``options`` are those of the decode head that predicts."""
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    heads = [{**cfg, "align_corners": align_corners} for cfg in map(dict, HEADS[head])]
    if head == "KNet":
        heads[0].pop("align_corners")
        heads[0]["kernel_generate_head"] = {**heads[0]["kernel_generate_head"], **options}
    else:
        heads[-1].update(options)
    cascade = len(heads) > 1
    config = {
        "type": "CascadeEncoderDecoder" if cascade else "EncoderDecoder",
        "data_preprocessor": {"type": "SegDataPreProcessor"},
        "backbone": {
            "type": backbone,
            "embed_dims": 8,
            "depths": (1, 1, 1, 1),
            "num_heads": (1, 2, 4, 8),
            "window_size": 4,
            "drop_path_rate": 0.0,
        },
        "decode_head": heads if cascade else heads[0],
        "auxiliary_head": {**FCN, "loss_decode": {**LOSS, "loss_weight": 0.4}}
        if auxiliary
        else None,
        "train_cfg": {},
        "test_cfg": {"mode": "whole"},
    }
    if cascade:
        config["num_stages"] = len(heads)
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(ConfigDict(config))
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():  # scores that differ, and norms that do something
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.1 * noise
    return model


def batch(
    sizes, classes=CLASSES, dtype=torch.float64, ignored=0.1, seed=0, ori_shape=None, images=2
):
    """Images of one size (rows, columns) and data samples with label maps.

    Args:
        sizes: rows and columns of the images.
        classes: number of classes of the labels.
        dtype: of the images.
        ignored: fraction of the pixels whose label is 255; in the first image all are, if it is 1.
        seed: of the random numbers.
        ori_shape: rows and columns to which predictions are resized; by default the images'.
        images: how many.
    """
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(seed)
    batch = torch.randn(images, 3, *sizes, generator=generator).to(dtype)
    samples = []
    for index in range(images):
        labels = torch.randint(classes, (1, *sizes), generator=generator)
        labels[torch.rand(1, *sizes, generator=generator) < ignored] = 255
        if index == 0 and ignored == 1:
            labels[:] = 255
        sample = SegDataSample(
            metainfo={
                "img_shape": tuple(sizes),
                "pad_shape": tuple(sizes),
                "ori_shape": tuple(ori_shape or sizes),
            }
        )
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    return batch, samples
