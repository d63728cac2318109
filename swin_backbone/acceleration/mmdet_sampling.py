"""Boxes for the losses, drawn with one wait for the device.

mmdet's sampler asks which candidates there are and how many, once for those with an object and once
for those without, and has what it drew sorted so that duplicates go: four waits an image. Here all
candidates of all images are sorted by kind, and one wait tells how many there are of each. What is
drawn is the same, by the same calls of ``random_choice``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .mmdet_parts import rewrite_of_parts
from .rewrite import imported

SAMPLERS = "mmdet.models.task_modules.samplers"
STOCK = (f"{SAMPLERS}.random_sampler", "RandomSampler")


def sample(sampler, assign_result, pred_instances, gt_instances, **kwargs):
    """``RandomSampler.sample``."""
    (result,) = _drawn(sampler, [assign_result], [pred_instances], [gt_instances], kwargs)
    return result


def sample_all(sampler, assigned: Sequence, priors: Sequence, objects: Sequence) -> list:
    """What ``sampler.sample`` gives for each image, whichever sampler it is."""
    if getattr(getattr(sampler, "sample", None), "__func__", None) is sample:
        return _drawn(sampler, assigned, priors, objects, {})
    return [sampler.sample(*one) for one in zip(assigned, priors, objects, strict=True)]


def _drawn(sampler, assigned: Sequence, predicted: Sequence, objects: Sequence, options) -> list:
    images = list(zip(assigned, predicted, objects, strict=True))
    if not all(_is_usual(sampler, *image) for image in images):
        return [type(sampler).sample(sampler, *image, **options) for image in images]
    boxes = [_with_objects(sampler, *image) for image in images]
    result = imported(f"{SAMPLERS}.sampling_result", "SamplingResult")
    candidates = candidates_by_kind([one.gt_inds for one in assigned])
    results = []
    for (one, _, truth), (priors, flags), found in zip(images, boxes, candidates, strict=True):
        chosen = _choose(sampler, *found)
        results.append(result(*chosen, priors, truth.bboxes, one, flags))
    return results


def _is_usual(sampler, assigned, predicted, objects) -> bool:
    """Whether candidates are the sampler's own, and boxes plain tensors on one device."""
    if sampler.pos_sampler is not sampler or sampler.neg_sampler is not sampler:
        return False
    boxes = (predicted.priors, objects.bboxes)
    return all(
        type(one) is Tensor and one.dim() == 2 and one.device == assigned.gt_inds.device
        for one in boxes
    )


def _with_objects(sampler, assigned, predicted, objects) -> tuple[Tensor, Tensor]:
    """Candidates, objects among them where they are to be, and which of them are objects."""
    priors, truth = predicted.priors, objects.bboxes
    flags = priors.new_zeros(len(priors), dtype=torch.uint8)
    if sampler.add_gt_as_proposals and len(truth):
        assigned.add_gt_(objects.labels)
        flags = torch.cat([flags.new_ones(len(truth)), flags])
        priors = torch.cat([truth, priors])
    return priors, flags


def candidates_by_kind(numbers: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Of each image, places of candidates with an object, and of those without, in their order.

    Args:
        numbers: (N_i,) of each image: the object of each candidate, from 1; 0 for none, and below
            for candidates that do not count.
    """
    sizes = [len(one) for one in numbers]
    kinds = torch.cat([3 * image + 1 - one.sign() for image, one in enumerate(numbers)])
    kinds, order = kinds.to(torch.int16).sort(stable=True)
    bounds = torch.arange(3 * len(sizes) + 1, dtype=kinds.dtype, device=kinds.device)
    bounds = torch.searchsorted(kinds, bounds).tolist()
    found, first = [], 0
    for image, size in enumerate(sizes):
        start, middle, end = bounds[3 * image : 3 * image + 3]
        found.append((order[start:middle] - first, order[middle:end] - first))
        first += size
    return found


def _choose(sampler, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Places of the boxes that are drawn, with an object and without."""
    positive = _some(sampler, positive, int(sampler.num * sampler.pos_fraction))
    most = sampler.num - len(positive)
    if sampler.neg_pos_ub >= 0:
        most = min(most, int(sampler.neg_pos_ub * max(1, len(positive))))
    return positive, _some(sampler, negative, most)


def _some(sampler, places: Tensor, most: int) -> Tensor:
    if len(places) <= most:
        return places
    return sampler.random_choice(places, most).sort().values


REWRITE = rewrite_of_parts(
    "sampling",
    "boxes for losses drawn with one wait",
    ("sampler", "bbox_sampler"),
    STOCK,
    {"sample": sample},
    also=("_sample_pos", "_sample_neg"),
)
