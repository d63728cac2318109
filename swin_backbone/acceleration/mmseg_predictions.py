"""Class maps of mmseg's segmentors from scores of the head's own size.

Stock segmentors resize K scores to the network's input, and again to the original image, and take
the best. Here neither is written: see :func:`swin_backbone.ops.resized_argmax`, and for images seen
in windows or several times :func:`swin_backbone.ops.merged_argmax`. Data samples get
``pred_sem_seg``, and ``seg_logits`` only where ``test_cfg`` has ``keep_logits=True``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops import Geometry, View, Window, merged_argmax, resized_argmax
from .rewrite import Rewrite, Undo, imported, is_of, own_method, own_methods, replace_methods

METHODS = ("predict", "inference", "whole_inference", "slide_inference", "postprocess_result")
#: Windows of an image that the network sees at a time, on a GPU. A CPU gains nothing from more than
#: one, and they take memory.
WINDOWS_AT_ONCE = 4


class Unresized(list):
    """Metadata of images, handed to a head whose scores are wanted as they are."""


def stock_model(name: str):
    """A class of mmseg."""
    modules = {
        "EncoderDecoder": "segmentors.encoder_decoder",
        "CascadeEncoderDecoder": "segmentors.cascade_encoder_decoder",
        "BaseDecodeHead": "decode_heads.decode_head",
    }
    return imported(f"mmseg.models.{modules[name]}", name)


def finds(module: nn.Module) -> bool:
    return is_of(module, stock_model("EncoderDecoder")) and not has_mask_head(module)


def has_mask_head(model: nn.Module) -> bool:
    """Whether a segmentor's head predicts masks and their classes."""
    stock = imported("mmdet.models.dense_heads.maskformer_head", "MaskFormerHead")
    return stock is not None and isinstance(last_head(model), stock)


def why_not(model: nn.Module) -> str | None:
    cascade = isinstance(model, stock_model("CascadeEncoderDecoder") or ())
    stock = stock_model("CascadeEncoderDecoder" if cascade else "EncoderDecoder")
    reason = own_methods(model, (*METHODS, "encode_decode"), stock)
    if reason is not None:
        return reason
    head = last_head(model)
    if not isinstance(head, stock_model("BaseDecodeHead")):
        return f"{type(head).__name__} is no BaseDecodeHead"
    return own_method(head, "predict_by_feat", stock_model("BaseDecodeHead"))


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
    return with_classes(data_samples, class_maps(model, inputs, data_samples))


def with_classes(data_samples: list | None, classes: list[Tensor]) -> list:
    """Data samples with ``pred_sem_seg`` (1, H, W); new ones for ``None``."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = data_samples or [SegDataSample() for _ in classes]
    for sample, labels in zip(samples, classes, strict=True):
        sample.set_data({"pred_sem_seg": PixelData(data=labels[None])})
    return samples


def class_maps(model: nn.Module, inputs: Tensor, data_samples: list | None) -> list[Tensor]:
    """(H, W) classes of each image; int64, or as the scores where there is one class."""
    if model.test_cfg.get("mode", "whole") == "slide":
        return [merged(model, [view]) for view in views(model, inputs, data_samples)]
    logits, geometries = _whole(model, inputs, data_samples)
    threshold = _threshold(model)
    if len(set(geometries)) == 1:  # as a rule: one call for all
        return _typed(resized_argmax(logits, geometries[0], threshold=threshold).classes, logits)
    return [
        _typed(resized_argmax(one[None], geometry, threshold=threshold).classes, logits)[0]
        for one, geometry in zip(logits, geometries, strict=True)
    ]


def merged(model: nn.Module, views: list[View]) -> Tensor:
    """(H, W) classes of one image, from one view of it or several."""
    example = views[0].example()  # while its windows are those of the first rows
    return _typed(merged_argmax(views, threshold=_threshold(model)).classes, example)[0]


def _threshold(model: nn.Module) -> float | None:
    return last_head(model).threshold if model.out_channels == 1 else None


def _typed(classes: Tensor, logits: Tensor) -> list[Tensor]:
    """mmseg gives the map of one class in the dtype of the scores."""
    return list(classes if logits.shape[1] > 1 else classes.to(logits.dtype))


def views(model: nn.Module, inputs: Tensor, data_samples: list | None) -> list[View]:
    """Each image's scores, whole or in windows as ``test_cfg`` says."""
    if model.test_cfg.get("mode", "whole") != "slide":
        logits, geometries = _whole(model, inputs, data_samples)
        return [View.whole(one[None], own) for one, own in zip(logits, geometries, strict=True)]
    metas, size = metas_of(inputs, data_samples), tuple(inputs.shape[2:])
    return [
        View(SlidingWindows(model, image[None], meta), geometry_of(model, size, own))
        for image, meta, own in zip(inputs, metas, own_metas(data_samples, metas), strict=True)
    ]


def _whole(model, inputs: Tensor, data_samples) -> tuple[Tensor, list[Geometry]]:
    metas = metas_of(inputs, data_samples)
    logits = model.encode_decode(inputs, Unresized(metas))
    first = metas[0]
    # As predict_by_feat has it: one size for the batch, that of the first image.
    is_window = isinstance(first["img_shape"], torch.Size)
    size = first["img_shape"] if is_window else first.get("pad_shape", first["img_shape"])
    return logits, [
        geometry_of(model, tuple(size[:2]), meta) for meta in own_metas(data_samples, metas)
    ]


def metas_of(inputs: Tensor, data_samples: list | None) -> list[dict]:
    """Metadata of images; of those without data samples, their size."""
    if data_samples is not None:
        return [sample.metainfo for sample in data_samples]
    shape = inputs.shape[2:]
    return [{"ori_shape": shape, "img_shape": shape, "pad_shape": shape}] * len(inputs)


def own_metas(data_samples, metas: list[dict]) -> list[dict]:
    """Metadata that says how to go on from the network's input: none without data samples."""
    return metas if data_samples is not None else [{}] * len(metas)


def geometry_of(model: nn.Module, size: tuple[int, int], meta: dict) -> Geometry:
    """From the network's input of a size to the original image."""
    padding = meta.get("img_padding_size", meta.get("padding_size", (0, 0, 0, 0)))
    flip = meta.get("flip_direction") if meta.get("flip") else None
    out_size = meta.get("ori_shape")
    out_size = None if out_size is None else tuple(out_size[:2])
    return Geometry(size, tuple(padding), flip, out_size, model.align_corners).checked()


class SlidingWindows:
    """The windows of ``test_cfg`` over an image, as ``slide_inference`` lays them. They run when
    rows are asked for, and only those that reach into the rows asked for last are kept.

    Args:
        model: the segmentor.
        image: (1, 3, H, W).
        meta: its metadata.
    """

    def __init__(self, model: nn.Module, image: Tensor, meta: dict):
        self.model, self.image, self.meta = model, image, meta
        size, crop, stride = image.shape[2:], model.test_cfg.crop_size, model.test_cfg.stride
        self.window = tuple(map(min, crop, size))
        self.tops, self.lefts = map(_starts, size, crop, stride)
        self.kept: dict[int, list[Window]] = {}

    def __call__(self, rows: slice) -> list[Window]:
        """Windows that reach into these rows."""
        height = self.window[0]
        tops = [top for top in self.tops if top < rows.stop and top + height > rows.start]
        self.kept = {top: self.kept.get(top) or self._run(top) for top in tops}
        return [window for windows in self.kept.values() for window in windows]

    def _run(self, top: int) -> list[Window]:
        """One row of windows."""
        windows, (height, width) = [], self.window
        at_once = WINDOWS_AT_ONCE if self.image.is_cuda else 1
        for index in range(0, len(self.lefts), at_once):
            lefts = self.lefts[index : index + at_once]
            crops = [self.image[..., top : top + height, left : left + width] for left in lefts]
            metas = [{**self.meta, "img_shape": crops[0].shape[2:]}] * len(crops)
            scores = self.model.encode_decode(torch.cat(crops), Unresized(metas))
            windows += [
                Window(one[None], top, left, height, width)
                for one, left in zip(scores, lefts, strict=True)
            ]
        return windows


def _starts(side: int, crop: int, stride: int) -> list[int]:
    count = max(side - crop + stride - 1, 0) // stride + 1
    return [max(min(index * stride + crop, side) - crop, 0) for index in range(count)]


REWRITE = Rewrite("predictions", "class maps from the head's own scores", finds, why_not, apply)
