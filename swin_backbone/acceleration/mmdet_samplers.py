"""Boxes for the losses drawn on the GPU.

mmdet permutes all candidates on the host, two hundred thousand anchors of an image, and copies
the first few over. Drawn on a GPU they are as random, and others for the same seed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .mmdet_parts import rewrite_of_parts


def random_choice(sampler, gallery, num: int):
    """``RandomSampler.random_choice``."""
    if not (isinstance(gallery, Tensor) and len(gallery) >= num):
        return type(sampler).random_choice(sampler, gallery, num)
    return gallery[torch.randperm(len(gallery), device=gallery.device)[:num]]


REWRITE = rewrite_of_parts(
    "samplers",
    "boxes for losses drawn where they lie",
    ("sampler", "bbox_sampler"),
    ("mmdet.models.task_modules.samplers.random_sampler", "RandomSampler"),
    {"random_choice": random_choice},
)
