"""Make whole models faster in place: same parameters, same names, same losses.

Each file that holds a ``Rewrite`` is one idea: what it finds, why not, what it does.
"""

from __future__ import annotations

from torch import nn

from . import (
    channels_last,
    deformable_attention,
    graphed_encoders,
    mmcv_attention,
    mmcv_bfloat16,
    mmcv_convolutions,
    mmdet_anchor_losses,
    mmdet_anchors,
    mmdet_assigners,
    mmdet_atss_assigners,
    mmdet_atss_losses,
    mmdet_attention_masks,
    mmdet_box_losses,
    mmdet_box_targets,
    mmdet_denoising_queries,
    mmdet_feature_sizes,
    mmdet_iou_losses,
    mmdet_mask_losses,
    mmdet_mask_regions,
    mmdet_mask_targets,
    mmdet_object_masks,
    mmdet_overlaps,
    mmdet_pixel_decoders,
    mmdet_positional_encodings,
    mmdet_proposals,
    mmdet_query_losses,
    mmdet_refined_boxes,
    mmdet_roi_extractors,
    mmdet_rpn_losses,
    mmdet_rpn_samples,
    mmdet_rtmdet_assigners,
    mmdet_rtmdet_losses,
    mmdet_samplers,
    mmdet_sampling,
    mmseg_losses,
    mmseg_mask_predictions,
    mmseg_predictions,
    mmseg_resizes,
    mmseg_scores,
    mmseg_tta,
    pools,
    swin,
    synchronized_norms,
)
from .acceleration_report import Report, Row
from .rewrite import Rewrite, drop_own_methods

__all__ = ["REWRITES", "Report", "Rewrite", "Row", "accelerate"]

#: In the order in which they are applied.
REWRITES = (
    *swin.REWRITES,
    mmseg_losses.REWRITE,
    mmseg_predictions.REWRITE,
    mmseg_mask_predictions.REWRITE,
    mmseg_tta.REWRITE,
    mmseg_resizes.REWRITE,
    mmseg_scores.REWRITE,
    deformable_attention.REWRITE,
    mmdet_roi_extractors.REWRITE,
    mmdet_mask_targets.REWRITE,
    mmdet_mask_regions.REWRITE,
    mmdet_mask_losses.REWRITE,
    mmdet_object_masks.REWRITE,
    mmdet_query_losses.REWRITE,
    mmdet_denoising_queries.REWRITE,
    mmdet_feature_sizes.REWRITE,
    mmdet_positional_encodings.REWRITE,
    mmdet_positional_encodings.HEADS,
    mmdet_attention_masks.REWRITE,
    mmdet_pixel_decoders.REWRITE,
    mmcv_attention.REWRITE,
    mmdet_rpn_samples.REWRITE,
    mmdet_anchors.REWRITE,
    mmdet_rpn_losses.REWRITE,
    mmdet_anchor_losses.REWRITE,
    mmdet_atss_losses.REWRITE,
    mmdet_rtmdet_losses.REWRITE,
    mmdet_proposals.REWRITE,
    mmdet_assigners.REWRITE,
    mmdet_atss_assigners.REWRITE,
    mmdet_rtmdet_assigners.REWRITE,
    mmdet_overlaps.REWRITE,
    mmdet_box_targets.REWRITE,
    mmdet_box_losses.REWRITE,
    mmdet_refined_boxes.REWRITE,
    mmdet_iou_losses.REWRITE,
    mmdet_samplers.REWRITE,
    mmdet_sampling.REWRITE,
    synchronized_norms.REWRITE,
    mmcv_convolutions.REWRITE,
    mmcv_bfloat16.REWRITE,
    pools.REWRITE,
    channels_last.REWRITE,
)


def accelerate(model: nn.Module, *, graphs: bool = False, **switches: bool) -> Report:
    """Replace what a model computes by faster ways to the same results, where it is known how.

        report = swin_backbone.accelerate(model)
        print(report)        # what was replaced, what was not and why
        report.revert()

    Parameters, buffers, their names, ``state_dict`` and hooks stay as they are. Only methods of
    the model's own modules are replaced, never those of a class. Works before or after the model
    is moved, cast or wrapped for distributed training. What is accelerated already stays so.

    Args:
        model: any module; what is not known in it stays as it is.
        graphs: whether the backbone (and neck) is replayed as CUDA graphs, too
            (:func:`swin_backbone.graph_backbone`).
        switches: for each rewrite, by its name in :data:`REWRITES`, whether to use it. All are
            used unless set to ``False``.

    Returns:
        The report.

    Raises:
        TypeError: if ``model`` is no module, or a switch is no bool.
        ValueError: if a switch has the name of no rewrite.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    _check({**switches, graphed_encoders.NAME: graphs})
    for module in model.modules():
        drop_own_methods(module)
    rows, undos = [], []
    for rewrite in REWRITES:
        if not switches.get(rewrite.name, True):
            continue
        done = {}
        for name, module in model.named_modules():
            if rewrite.finds(module):
                reason = rewrite.why_not(module)
                what = "" if reason else rewrite.what
                rows.append(Row(rewrite.name, (name,), type(module).__name__, what, reason or ""))
                if reason is None:
                    undos.append(rewrite.apply(module))
                    done[name] = module
        if rewrite.join is not None:
            undos += rewrite.join(done)
    if graphs:
        more_rows, more_undos = graphed_encoders.apply_graphs(model)
        rows += more_rows
        undos += more_undos
    return Report(rows, undos)


def _check(switches: dict[str, bool]) -> None:
    known = [*dict.fromkeys(rewrite.name for rewrite in REWRITES), graphed_encoders.NAME]
    for name, value in switches.items():
        if name not in known:
            raise ValueError(f"accelerate has the switches {', '.join(known)}, got {name!r}")
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")
