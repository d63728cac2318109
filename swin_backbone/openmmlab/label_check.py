"""A clear error for a label that is no class, before it reaches the loss.

Without it cross entropy fails with an index error that names no image, or on a GPU with an
assertion that ends the process; and mmseg's metric leaves such pixels out without a word.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from torch import Tensor, nn


@HOOKS.register_module()
class LabelCheckHook(Hook):
    """Check every batch's segmentation labels against the decode head's classes.

    Labels are looked at where the data loader left them, in the host's memory, so that no GPU
    has to wait; or, of fast data, a list of those that occur, which the workers made.

    Raises:
        ValueError: for a label that is neither in [0, num_classes) nor ``ignore_index``; the
            message names the image, the labels, num_classes and ignore_index.
    """

    priority = "VERY_HIGH"

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Check a training batch."""
        _check_batch(runner.model, data_batch)

    def before_val_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Check a validation batch."""
        _check_batch(runner.model, data_batch)

    def before_test_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Check a test batch, where it has labels."""
        _check_batch(runner.model, data_batch)


def _check_batch(model: nn.Module, data_batch: dict) -> None:
    head = _decode_head(model)
    # A head with one output tells two classes apart, whatever num_classes says.
    num_classes = max(head.num_classes, 2) if head.out_channels == 1 else head.num_classes
    for sample in _flat(data_batch["data_samples"]):
        if "label_values" in sample:
            labels = torch.tensor(sample.label_values, device="cpu")
        elif "gt_sem_seg" in sample:
            labels = sample.gt_sem_seg.data
        else:
            continue
        wrong = find_wrong_labels(labels, num_classes, head.ignore_index)
        if wrong:
            source = sample.get("seg_map_path") or sample.get("img_path")
            raise ValueError(
                f"labels of {source!r} must lie in [0, num_classes={num_classes}) or be "
                f"ignore_index={head.ignore_index}, got {wrong}"
            )


def _flat(samples) -> Iterator:
    """Samples of a batch; test-time augmentation nests them by augmentation."""
    for sample in samples:
        if isinstance(sample, (list, tuple)):
            yield from _flat(sample)
        else:
            yield sample


def find_wrong_labels(labels: Tensor, num_classes: int, ignore_index: int | None) -> list[int]:
    """The values in a label map that are no class and not ignored, ascending.

    Args:
        labels: integers of any shape.
        num_classes: labels run from 0 to ``num_classes - 1``.
        ignore_index: a further value that is allowed.
    """
    # In numpy, on one thread: torch's threads would wait for the cores that load the data, and
    # turn a millisecond into half a second.
    values = labels.numpy()
    wrong = (values < 0) | (values >= num_classes)
    if ignore_index is not None:
        wrong &= values != ignore_index
    return np.unique(values[wrong]).tolist() if wrong.any() else []


def _decode_head(model: nn.Module) -> nn.Module:
    segmentor = model
    while is_model_wrapper(segmentor) or isinstance(segmentor, BaseTTAModel):
        segmentor = segmentor.module
    head = getattr(segmentor, "decode_head", None)
    if head is None:
        raise TypeError(
            f"LabelCheckHook needs a segmentor with a decode_head, got {type(segmentor).__name__}"
        )
    return head[-1] if isinstance(head, nn.ModuleList) else head  # the last of a cascade
