"""Ground truth that the region proposal network shares with the rest of a detector.

mmdet copies all of a batch's data samples for it, with every bitmap and every tensor, to set their
labels to zero. Containers of their own are enough for that: what lies in them is read only.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

from torch import Tensor, nn

from .mmdet_mask_targets import masks_ahead
from .rewrite import Rewrite, Undo, imported, own_method, replace_methods, with_globals

#: Module and class of the detectors whose ``loss`` makes the copy.
DETECTORS = (
    ("mmdet.models.detectors.two_stage", "TwoStageDetector"),
    ("mmdet.models.detectors.panoptic_two_stage_segmentor", "TwoStagePanopticSegmentor"),
    ("mmdet.models.detectors.rpn", "RPN"),
)


def _stock(module: nn.Module) -> type | None:
    """The class whose ``loss`` a detector has."""
    classes = [imported(*names) for names in DETECTORS]
    return next((c for c in type(module).__mro__ if c in classes and "loss" in vars(c)), None)


def finds(module: nn.Module) -> bool:
    return _stock(module) is not None and _rpn_head(module) is not None


def why_not(detector: nn.Module) -> str | None:
    head = type(_rpn_head(detector))
    if not head.__module__.startswith("mmdet."):
        return f"{head.__name__} is not mmdet's: it may change what it gets"
    return own_method(detector, "loss", _stock(detector))


def apply(detector: nn.Module) -> Undo:
    stock = _stock(detector).loss

    def loss(detector: nn.Module, batch_inputs: Tensor, batch_data_samples: Sequence) -> dict:
        """mmdet's own, in which the backbone runs before the samples are copied."""
        own = with_globals(stock, copy=SimpleNamespace(deepcopy=with_own_containers))
        with masks_ahead(_mask_heads(detector), batch_data_samples, batch_inputs.device):
            return own(detector, batch_inputs, batch_data_samples)

    return replace_methods(detector, {"loss": loss})


def _mask_heads(detector: nn.Module) -> list[nn.Module]:
    head = getattr(getattr(detector, "roi_head", None), "mask_head", None)
    if isinstance(head, nn.ModuleList):
        return list(head)
    return [] if head is None else [head]


def with_own_containers(samples: Sequence) -> list:
    """Data samples of the same tensors, in which others can be put."""
    copies = []
    for sample in samples:
        copied = sample.new()
        if "gt_instances" in sample:
            copied.gt_instances = sample.gt_instances.new()
        copies.append(copied)
    return copies


def _rpn_head(detector: nn.Module) -> nn.Module | None:
    """A detector of one stage that proposes regions has it as its only head."""
    head = getattr(detector, "rpn_head", None)
    return getattr(detector, "bbox_head", None) if head is None else head


REWRITE = Rewrite("rpn_samples", "ground truth shared with the RPN", finds, why_not, apply)
