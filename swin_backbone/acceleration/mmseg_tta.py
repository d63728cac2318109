"""Test-time augmentation of mmseg's segmentors, a band of rows at a time."""

from __future__ import annotations

from torch import nn

from . import mmseg_predictions
from .rewrite import Rewrite, Undo, imported, is_of, own_methods, replace_methods


def _stock():
    return imported("mmseg.models.segmentors.seg_tta", "SegTTAModel")


def finds(module: nn.Module) -> bool:
    return is_of(module, _stock())


def why_not(tta: nn.Module) -> str | None:
    reason = own_methods(tta, ("test_step", "merge_preds"), _stock())
    if reason is not None:
        return f"{reason}; use predictions=False with it"
    if not mmseg_predictions.finds(tta.module):
        return f"{type(tta.module).__name__} is no EncoderDecoder"
    return None


def apply(tta: nn.Module) -> Undo:
    return replace_methods(tta, {"test_step": test_step})


def test_step(tta: nn.Module, data: dict) -> list:
    """``SegTTAModel.test_step``: data samples with ``pred_sem_seg`` (1, H, W).

    Args:
        tta: the model, around a segmentor.
        data: with ``inputs``, and ``data_samples``, a list of views of each image.
    """
    from mmengine.structures import PixelData

    model, samples, found = tta.module, [], []
    for inputs, own in zip(data["inputs"], data["data_samples"], strict=True):
        view = model.data_preprocessor({"inputs": inputs, "data_samples": own}, False)
        samples.append(view["data_samples"])
        found.append(mmseg_predictions.views(model, view["inputs"], view["data_samples"]))
    merged = []
    for own, views in zip(zip(*samples, strict=True), zip(*found, strict=True), strict=True):
        sample = own[-1]  # as mmseg: the last view's, with what the first knows
        classes = mmseg_predictions.merged(model, list(views))
        sample.set_data({"pred_sem_seg": PixelData(data=classes)})
        if hasattr(own[0], "gt_sem_seg"):
            sample.set_data({"gt_sem_seg": own[0].gt_sem_seg})
        sample.set_metainfo({"img_path": own[0].img_path})
        merged.append(sample)
    return merged


REWRITE = Rewrite(
    "predictions", "probabilities of all views a band of rows at a time", finds, why_not, apply
)
