"""Boxes for the losses drawn on the GPU.

mmdet permutes all candidates on the host, two hundred thousand anchors of an image, and copies
the first few over. Drawn on a GPU they are as random, and others for the same seed.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .rewrite import Rewrite, Undo, imported, replace_methods


def _stock() -> type | None:
    return imported("mmdet.models.task_modules.samplers.random_sampler", "RandomSampler")


def _samplers(module: nn.Module) -> Iterator:
    """Of a head, or of each stage of one."""
    stock = _stock()
    for name in ("sampler", "bbox_sampler") if stock is not None else ():
        value = module.__dict__.get(name)
        values = value if isinstance(value, list) else [value]
        yield from (one for one in values if isinstance(one, stock))


def finds(module: nn.Module) -> bool:
    return any(True for _ in _samplers(module))


def why_not(module: nn.Module) -> str | None:
    stock = _stock()
    for sampler in _samplers(module):
        if "random_choice" in sampler.__dict__:
            return "its random_choice was replaced"
        if type(sampler).random_choice is not stock.random_choice:
            return f"{type(sampler).__name__} has a random_choice of its own"
    return None


def apply(module: nn.Module) -> Undo:
    undos = [replace_methods(s, {"random_choice": random_choice}) for s in _samplers(module)]

    def undo() -> None:
        for one in undos:
            one()

    return undo


def random_choice(sampler, gallery, num: int):
    """``RandomSampler.random_choice``."""
    if not (isinstance(gallery, Tensor) and len(gallery) >= num):
        return type(sampler).random_choice(sampler, gallery, num)
    return gallery[torch.randperm(len(gallery), device=gallery.device)[:num]]


REWRITE = Rewrite("samplers", "boxes for losses drawn on the GPU", finds, why_not, apply)
