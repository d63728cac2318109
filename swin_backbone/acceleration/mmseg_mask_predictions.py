"""Class maps of mmseg's Mask2Former, a band of rows at a time.

Stock heads resize the masks of all queries to the network's input, multiply them with scores of
classes, and resize the product to the original image. Here that is done for some rows at a time, in
float32, and only the best class of a pixel is kept: memory does not grow with the image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops import Geometry, View, Window, merged_argmax
from ..ops.banded_argmax import view_scores
from .mmseg_predictions import (
    METHODS,
    geometry_of,
    has_mask_head,
    last_head,
    metas_of,
    own_metas,
    stock_model,
    with_classes,
)
from .rewrite import Rewrite, Undo, imported, own_method, own_methods, replace_methods


def finds(module: nn.Module) -> bool:
    return isinstance(module, stock_model("EncoderDecoder") or ()) and has_mask_head(module)


def why_not(model: nn.Module) -> str | None:
    stock = stock_model("EncoderDecoder")
    reason = own_methods(model, (*METHODS, "encode_decode"), stock)
    if reason is not None:
        return reason
    head = imported("mmseg.models.decode_heads.mask2former_head", "Mask2FormerHead")
    if not isinstance(last_head(model), head or ()):
        return f"{type(last_head(model)).__name__} is no Mask2FormerHead of mmseg"
    if model.align_corners:
        return "its second resize aligns corners, its first does not"
    return own_method(last_head(model), "predict", head)


def apply(model: nn.Module) -> Undo:
    return replace_methods(model, {"predict": predict})


def predict(model: nn.Module, inputs: Tensor, data_samples: list | None = None) -> list:
    """``EncoderDecoder.predict``: data samples with ``pred_sem_seg`` (1, H, W).

    Args:
        model: the segmentor.
        inputs: (B, 3, H, W) images.
        data_samples: of the images; ``None`` for new ones.
    """
    is_whole = model.test_cfg.get("mode", "whole") == "whole"
    if not is_whole or model.test_cfg.get("keep_logits", False):
        return type(model).predict(model, inputs, data_samples)
    metas = metas_of(inputs, data_samples)
    scores, masks = (found[-1] for found in last_head(model)(model.extract_feat(inputs), metas))
    size = tuple(metas[0].get("pad_shape", metas[0]["img_shape"])[:2])
    with torch.autocast(inputs.device.type, enabled=False):
        classes = [
            _classes(*pair, geometry_of(model, size, own))
            for *pair, own in zip(scores, masks, own_metas(data_samples, metas), strict=True)
        ]
    return with_classes(data_samples, classes)


def _classes(scores: Tensor, masks: Tensor, geometry: Geometry) -> Tensor:
    """(H, W) of scores (Q, classes + 1) and masks (Q, h, w) of an image."""
    rows = ClassScores(scores, masks, geometry.size)
    return merged_argmax([View(rows, geometry)]).classes[0]


class ClassScores:
    """Scores of classes of some rows of the network's input, at its size.

    Args:
        scores: (Q, classes + 1) of queries.
        masks: (Q, h, w) of queries.
        size: rows and columns of the network's input.
    """

    def __init__(self, scores: Tensor, masks: Tensor, size: tuple[int, int]):
        dtype = torch.promote_types(scores.dtype, torch.float32)
        self.classes = scores.to(dtype).softmax(-1)[:, :-1].T
        self.masks = View.whole(masks[None], Geometry(size))

    def __call__(self, rows: slice) -> list[Window]:
        """The sum over queries of their classes times their masks."""
        chances = view_scores(self.masks, rows).sigmoid_()
        mixed = self.classes @ chances.flatten(2)
        size = chances.shape[2:]
        return [Window(mixed.unflatten(2, size), rows.start, 0, *size)]


REWRITE = Rewrite(
    "predictions", "class maps from queries, a band of rows at a time", finds, why_not, apply
)
