"""Denoising queries of mmdet's DINO and its kin, made without a wait for the GPU.

The stock generator makes them of a batch's objects between encoder and decoder. It asks the GPU
which labels get noise and how many objects an image has, and copies sizes of images from memory
that may move: the host waits for all of the encoder, and starts the decoder's many kernels behind
it. The same queries; on a GPU as many random labels are drawn as there are labels, of which the
first take the places of those that the stock generator draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..ops.host_copies import copied_to
from .rewrite import Rewrite, Undo, imported, is_of, own_methods, replace_methods

#: What the generator's call consists of.
PARTS = (
    "__call__",
    "get_num_groups",
    "generate_dn_label_query",
    "generate_dn_bbox_query",
    "collate_dn_queries",
    "generate_dn_mask",
)
GENERATOR = "dn_query_generator"


def _stock() -> type | None:
    return imported("mmdet.models.layers.transformer.dino_layers", "CdnQueryGenerator")


def finds(module: nn.Module) -> bool:
    return is_of(getattr(module, GENERATOR, None), _stock()) and hasattr(module, "pre_decoder")


def why_not(detector: nn.Module) -> str | None:
    if "pre_decoder" in detector.__dict__:
        return "its pre_decoder was replaced"
    return own_methods(getattr(detector, GENERATOR), PARTS, _stock())


def apply(detector: nn.Module) -> Undo:
    return replace_methods(detector, {"pre_decoder": pre_decoder})


def pre_decoder(detector: nn.Module, *args, **kwargs):
    """The class's own ``pre_decoder``, which calls the generator once, by its name."""
    generator = getattr(detector, GENERATOR)
    detector.__dict__[GENERATOR] = partial(denoising_queries, generator)
    try:
        return type(detector).pre_decoder(detector, *args, **kwargs)
    finally:
        del detector.__dict__[GENERATOR]


def denoising_queries(
    generator: nn.Module, batch_data_samples: Sequence
) -> tuple[Tensor, Tensor, Tensor, dict]:
    """``CdnQueryGenerator.__call__``."""
    objects = [sample.gt_instances for sample in batch_data_samples]
    if torch.compiler.is_compiling() or not all(type(one.bboxes) is Tensor for one in objects):
        return type(generator).__call__(generator, batch_data_samples)
    counts, device = [len(one.bboxes) for one in objects], objects[0].bboxes.device
    labels = torch.cat([one.labels for one in objects])
    boxes = _normalized(batch_data_samples)
    groups = generator.get_num_groups(max(counts))
    if labels.is_cuda and generator.label_noise_scale > 0:
        of_labels = generator.label_embedding(noisy_labels(generator, labels, groups))
    else:
        of_labels = generator.generate_dn_label_query(labels, groups)
    of_boxes = generator.generate_dn_bbox_query(boxes, groups)
    number = 2 * groups * max(counts)
    places = copied_to(_places(counts, groups), device)
    queries = [
        torch.zeros(len(counts) * number, width, device=device)
        .index_copy(0, places, values)
        .view(len(counts), number, width)
        for values, width in ((of_labels, generator.embed_dims), (of_boxes, 4))
    ]
    mask = _mask(number, groups, generator.num_matching_queries, device)
    meta = {"num_denoising_queries": number, "num_denoising_groups": groups}
    return *queries, mask, meta


def _normalized(samples: Sequence) -> Tensor:
    """(objects, 4): boxes of all images, relative to each image's size."""
    boxes = [sample.gt_instances.bboxes for sample in samples]
    sizes = [[columns, rows] * 2 for rows, columns in (sample.img_shape for sample in samples)]
    table = copied_to(torch.tensor(sizes, dtype=boxes[0].dtype, device="cpu"), boxes[0].device)
    return torch.cat([own / size for own, size in zip(boxes, table.split(1), strict=True)])


def noisy_labels(generator: nn.Module, labels: Tensor, groups: int) -> Tensor:
    """``labels`` (objects,) twice for each group, one after the other, some of them other ones."""
    labels = labels.repeat(2 * groups)
    chosen = torch.rand_like(labels.float()) < generator.label_noise_scale * 0.5
    drawn = torch.randint_like(labels, 0, generator.num_classes)
    place = chosen.cumsum(0).sub_(1).clamp_(min=0)
    return torch.where(chosen, drawn[place], labels)


def _places(counts: Sequence[int], groups: int) -> Tensor:
    """Where each object's query of each group lies among the rows of all images, on the CPU.

    Objects of all images come one after the other, 2 x ``groups`` times; an image has as many rows
    for each time as the image with the most objects has.
    """
    most, times = max(counts), 2 * groups
    first = [
        image * times * most + torch.arange(count, device="cpu")
        for image, count in enumerate(counts)
    ]
    return (torch.cat(first) + most * torch.arange(times, device="cpu")[:, None]).flatten()


def _mask(number: int, groups: int, matching: int, device: torch.device) -> Tensor:
    """(queries, queries), ``True`` where one must not see another: denoising queries of other
    groups, and those that are matched any of them."""
    query = torch.arange(number + matching, device=device)
    group = query.div(max(number // groups, 1), rounding_mode="floor")
    group = group.masked_fill_(query >= number, -1)
    return (group >= 0) & (group != group[:, None])


REWRITE = Rewrite(
    "denoising_queries", "queries of noised objects, without a wait", finds, why_not, apply
)
