"""Class maps of mmseg's segmentors from scores of the head's own size.

Stock segmentors resize K scores to the network's input, and again to the original image, and take
the best. Here neither is written: see :func:`swin_backbone.ops.resized_argmax`, and for images seen
in windows :mod:`.score_rows`. Data samples get ``pred_sem_seg``, and ``seg_logits`` only where
``test_cfg`` has ``keep_logits=True``.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from ..ops import Geometry, resized_argmax
from .rewrite import Rewrite, Undo, own_method, replace_methods
from .score_rows import SlidScores, View, WholeScores, bands

METHODS = ("predict", "inference", "whole_inference", "slide_inference", "postprocess_result")
#: Windows of an image that the network sees at a time.
WINDOWS_AT_ONCE = 4


class Unresized(list):
    """Metadata of images, handed to a head whose scores are wanted as they are."""


def _stock(name: str):
    """A class of mmseg, or ``None`` as long as nobody has imported it."""
    modules = {
        "EncoderDecoder": "segmentors.encoder_decoder",
        "CascadeEncoderDecoder": "segmentors.cascade_encoder_decoder",
        "BaseDecodeHead": "decode_heads.decode_head",
    }
    module = sys.modules.get(f"mmseg.models.{modules[name]}")
    return getattr(module, name, None)


def finds(module: nn.Module) -> bool:
    stock = _stock("EncoderDecoder")
    return stock is not None and isinstance(module, stock)


def why_not(model: nn.Module) -> str | None:
    cascade = isinstance(model, _stock("CascadeEncoderDecoder") or ())
    stock = _stock("CascadeEncoderDecoder" if cascade else "EncoderDecoder")
    for name in (*METHODS, "encode_decode"):
        reason = own_method(model, name, stock)
        if reason is not None:
            return reason
    head = last_head(model)
    if not isinstance(head, _stock("BaseDecodeHead")):
        return f"{type(head).__name__} is no BaseDecodeHead"
    return own_method(head, "predict_by_feat", _stock("BaseDecodeHead"))


def apply(model: nn.Module) -> Undo:
    undos = [
        replace_methods(last_head(model), {"predict_by_feat": predict_by_feat}),
        replace_methods(model, {"predict": predict}),
    ]
    return lambda: [undo() for undo in undos]


def last_head(model: nn.Module) -> nn.Module:
    """The head that predicts."""
    head = model.decode_head
    return head[-1] if isinstance(head, nn.ModuleList) else head


def predict_by_feat(head: nn.Module, seg_logits: Tensor, batch_img_metas: list) -> Tensor:
    """``BaseDecodeHead.predict_by_feat``, which resizes unless it is asked not to."""
    if isinstance(batch_img_metas, Unresized):
        return seg_logits
    return type(head).predict_by_feat(head, seg_logits, batch_img_metas)


def predict(model: nn.Module, inputs: Tensor, data_samples: list | None = None) -> list:
    """``EncoderDecoder.predict``: data samples with ``pred_sem_seg`` (1, H, W).

    Args:
        model: the segmentor.
        inputs: (B, 3, H, W) images.
        data_samples: of the images; ``None`` for new ones.
    """
    if model.test_cfg.get("keep_logits", False):
        return type(model).predict(model, inputs, data_samples)
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    classes = class_maps(model, inputs, data_samples)
    samples = data_samples or [SegDataSample() for _ in classes]
    for sample, labels in zip(samples, classes, strict=True):
        sample.set_data({"pred_sem_seg": PixelData(data=labels[None])})
    return samples


def class_maps(model: nn.Module, inputs: Tensor, data_samples: list | None) -> list[Tensor]:
    """(H, W) classes of each image; int64, or as the scores where there is one class."""
    threshold = last_head(model).threshold if model.out_channels == 1 else None
    if model.test_cfg.get("mode", "whole") == "slide":
        return [map_of_bands([view], threshold) for view in views(model, inputs, data_samples)]
    logits, geometries = _whole(model, inputs, data_samples)
    if len(set(geometries)) == 1:  # as a rule: one call for all
        return _typed(resized_argmax(logits, geometries[0], threshold=threshold).classes, logits)
    return [
        _typed(resized_argmax(one[None], geometry, threshold=threshold).classes, logits)[0]
        for one, geometry in zip(logits, geometries, strict=True)
    ]


def _typed(classes: Tensor, logits: Tensor) -> list[Tensor]:
    """mmseg gives the map of one class in the dtype of the scores."""
    return list(classes if logits.shape[1] > 1 else classes.to(logits.dtype))


def views(model: nn.Module, inputs: Tensor, data_samples: list | None) -> list[View]:
    """Each image's scores, whole or in windows as ``test_cfg`` says."""
    if model.test_cfg.get("mode", "whole") == "slide":
        metas = _metas(inputs, data_samples)
        size = tuple(inputs.shape[2:])
        geometries = [_geometry(model, size, meta) for meta in _own(data_samples, metas)]
        return [
            View(_slide(model, inputs[index : index + 1], metas[index]), geometry)
            for index, geometry in enumerate(geometries)
        ]
    logits, geometries = _whole(model, inputs, data_samples)
    return [
        View(WholeScores(one[None], geometry.size, model.align_corners), geometry)
        for one, geometry in zip(logits, geometries, strict=True)
    ]


def map_of_bands(views: list[View], threshold: float | None) -> Tensor:
    """(H, W) classes of an image from one view, or from the mean of several views' probabilities.

    Args:
        views: of the image; all end at its size.
        threshold: where there is one class.
    """
    pieces = []
    for scores in bands(views):
        if threshold is not None:
            mean = sum(one.sigmoid() for one in scores) / len(scores)
            pieces.append((mean > threshold).to(mean.dtype)[0, 0])
        else:
            if len(scores) > 1:
                scores = [sum(one.softmax(dim=1) for one in scores)]
            pieces.append(scores[0].argmax(dim=1)[0])
    return torch.cat(pieces)


def _whole(model, inputs: Tensor, data_samples) -> tuple[Tensor, list[Geometry]]:
    metas = _metas(inputs, data_samples)
    logits = model.encode_decode(inputs, Unresized(metas))
    first = metas[0]
    # As predict_by_feat has it: one size for the batch, that of the first image.
    is_window = isinstance(first["img_shape"], torch.Size)
    size = first["img_shape"] if is_window else first.get("pad_shape", first["img_shape"])
    return logits, [_geometry(model, tuple(size[:2]), meta) for meta in _own(data_samples, metas)]


def _metas(inputs: Tensor, data_samples: list | None) -> list[dict]:
    if data_samples is not None:
        return [sample.metainfo for sample in data_samples]
    shape = inputs.shape[2:]
    return [{"ori_shape": shape, "img_shape": shape, "pad_shape": shape}] * len(inputs)


def _own(data_samples, metas: list[dict]) -> list[dict]:
    """Metadata that says how to go on from the network's input: none without data samples."""
    return metas if data_samples is not None else [{}] * len(metas)


def _geometry(model: nn.Module, size: tuple[int, int], meta: dict) -> Geometry:
    padding = meta.get("img_padding_size", meta.get("padding_size", (0, 0, 0, 0)))
    flip = meta.get("flip_direction") if meta.get("flip") else None
    out_size = meta.get("ori_shape")
    out_size = None if out_size is None else tuple(out_size[:2])
    return Geometry(size, tuple(padding), flip, out_size, model.align_corners).checked()


def _slide(model: nn.Module, image: Tensor, meta: dict) -> SlidScores:
    """The windows of ``test_cfg`` over (1, 3, H, W), as ``slide_inference`` lays them."""
    size = tuple(image.shape[2:])
    crop, stride = model.test_cfg.crop_size, model.test_cfg.stride
    window = tuple(map(min, crop, size))
    starts = tuple(map(_starts, size, crop, stride))

    def run(corners: list[tuple[int, int]]) -> Tensor:
        scores = []
        for index in range(0, len(corners), WINDOWS_AT_ONCE):
            crops = [
                image[:, :, top : top + window[0], left : left + window[1]]
                for top, left in corners[index : index + WINDOWS_AT_ONCE]
            ]
            own = {**meta, "img_shape": crops[0].shape[2:]}
            scores.append(model.encode_decode(torch.cat(crops), Unresized([own] * len(crops))))
        return torch.cat(scores)

    return SlidScores(run, starts, window, size, model.out_channels, model.align_corners)


def _starts(side: int, crop: int, stride: int) -> list[int]:
    count = max(side - crop + stride - 1, 0) // stride + 1
    return [max(min(index * stride + crop, side) - crop, 0) for index in range(count)]


REWRITE = Rewrite("predictions", "class maps from the head's own scores", finds, why_not, apply)
