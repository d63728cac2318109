"""What drop path multiplies branches with, in all libraries."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

from ...ops.kept_tables import remembered_tables

#: Modules that drop a branch of whole images, by the names of their classes in all libraries.
DROP_PATHS = frozenset(
    f"{owner}DropPath" for owner in ("", "Swin", "Swinv2", "Donut", "DonutSwin", "MaskFormer")
) | {"MaskFormerSwinDropPath", "ClapDropPath", "ClapAudioDropPath", "Swin2SRDropPath"}


def knows_drop_path(module: nn.Module) -> bool:
    """Whether a module drops a branch of whole images, or never anything."""
    name = type(module).__name__
    if name == "StochasticDepth":
        return module.mode == "row"
    return name in DROP_PATHS or type(module) is nn.Identity


def path_scale(drop_path: nn.Module, x: Tensor) -> Tensor | None:
    """(B,) float32, or float64 for such ``x``, what a library's own module multiplies the branch of
    each image with, from the same random numbers; ``None`` for 1."""
    if not drop_path.training:  # first: a graph of predictions then serves blocks of any rate
        return None
    rate = getattr(drop_path, "drop_prob", getattr(drop_path, "p", 0.0))
    if not rate:
        return None
    if torch.compiler.is_compiling():
        return _by_module(drop_path, x.new_ones(1), len(x))
    draw = _draw_of(type(drop_path), getattr(drop_path, "scale_by_keep", True))
    if draw is not None and x.dtype != torch.float64:  # in which a GPU draws other numbers
        return draw(1 - rate, len(x), x.dtype, x.device).float()
    return _by_module(drop_path, _one(x.dtype, x.device), len(x))


def _by_module(drop_path: nn.Module, one: Tensor, images: int) -> Tensor:
    scale = drop_path(one.expand(images, 1, 1)).flatten()
    return scale if scale.dtype == torch.float64 else scale.float()


def _bernoulli(keep: float, images: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """As timm and torchvision draw; the numbers are the same in all dtypes."""
    kept = torch.empty(images, device=device, dtype=torch.float32).bernoulli_(keep)
    return kept.div_(keep) if keep > 0 else kept


def _uniform(keep: float, images: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """As transformers and mmcv draw."""
    return torch.rand(images, device=device, dtype=dtype).add_(keep).floor_().div_(keep)


@lru_cache(maxsize=64)
def _draw_of(kind: type, scales: bool) -> Callable[..., Tensor] | None:
    """Which of these, without a module and its passes over ones, draws what modules of a class do;
    ``None`` for neither. Tried once, as versions differ."""
    arguments = {"mode": "row"} if kind.__name__ == "StochasticDepth" else {}
    try:
        modules = [kind(rate, **arguments).train() for rate in (0.3, 0.5)] if scales else []
    except TypeError:  # it is made otherwise
        return None
    for draw in (_bernoulli, _uniform):
        if modules and all(
            _draws_so(module, keep, draw) for module, keep in zip(modules, (0.7, 0.5), strict=True)
        ):
            return draw
    return None


def _draws_so(module: nn.Module, keep: float, draw: Callable[..., Tensor]) -> bool:
    """Whether the factors are the same, and as many random numbers were drawn."""
    cpu = torch.device("cpu")
    with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.autocast("cpu", enabled=False):
        for dtype in (torch.float32, torch.bfloat16):
            torch.manual_seed(1)
            theirs = _by_module(module, torch.ones(1, dtype=dtype, device=cpu), 64)
            left = torch.rand(1, device=cpu)
            torch.manual_seed(1)
            ours = draw(keep, 64, dtype, cpu).float()
            near = torch.allclose(ours, theirs, rtol=torch.finfo(dtype).eps)
            if not (near and torch.equal(left, torch.rand(1, device=cpu))):
                return False
    return True


@remembered_tables
def _one(dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.ones(1, dtype=dtype, device=device)
