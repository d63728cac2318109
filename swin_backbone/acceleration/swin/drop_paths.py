"""What drop path multiplies branches with, in all libraries."""

from __future__ import annotations

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
    """(B,) float32, what a library's own module multiplies the branch of each image with, from the
    same random numbers; ``None`` for 1."""
    rate = getattr(drop_path, "drop_prob", getattr(drop_path, "p", 0.0))
    if not (drop_path.training and rate):
        return None
    if torch.compiler.is_compiling():
        return _by_module(drop_path, x.new_ones(1), len(x))
    scales = getattr(drop_path, "scale_by_keep", True)
    # In float64 a GPU draws other numbers.
    if x.dtype != torch.float64 and _draws_bernoulli(type(drop_path), scales):
        return _drawn(rate, len(x), x.device)
    return _by_module(drop_path, _one(x.dtype, x.device), len(x))


def _by_module(drop_path: nn.Module, one: Tensor, images: int) -> Tensor:
    return drop_path(one.expand(images, 1, 1)).flatten().float()


def _drawn(rate: float, images: int, device: torch.device) -> Tensor:
    """In two launches, where the module takes five."""
    kept = torch.empty(images, device=device, dtype=torch.float32).bernoulli_(1 - rate)
    return kept.div_(1 - rate) if rate < 1 else kept


@lru_cache(maxsize=64)
def _draws_bernoulli(kind: type, scales: bool) -> bool:
    """Whether modules of a class draw as :func:`_drawn` does: tried once, as versions differ."""
    if not scales:
        return False
    arguments = {"mode": "row"} if kind.__name__ == "StochasticDepth" else {}
    with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.autocast("cpu", enabled=False):
        for rate in (0.3, 0.5):
            try:
                module = kind(rate, **arguments).train()
            except TypeError:
                return False  # it is made otherwise, and draws by itself
            for dtype in (torch.float32, torch.bfloat16):
                torch.manual_seed(1)
                theirs = _by_module(module, torch.ones(1, dtype=dtype), 64)
                left = torch.random.get_rng_state()
                torch.manual_seed(1)
                ours = _drawn(rate, 64, torch.device("cpu"))
                same = torch.equal(left, torch.random.get_rng_state())
                if not (same and torch.allclose(ours, theirs, rtol=torch.finfo(dtype).eps)):
                    return False
    return True


@remembered_tables
def _one(dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.ones(1, dtype=dtype, device=device)
