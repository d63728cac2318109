"""When the ways of this package may be taken."""

from __future__ import annotations

import torch
from torch import Tensor

from ..watched import why_hidden


def why_not_eager(x: Tensor) -> str | None:
    """Why ``x`` is not computed with eagerly on a CPU, or ``None`` if it is.

    Compilers fuse plain operators better than what is fused by hand here; exporters, counters of
    operations and transforms know only plain ones.
    """
    if x.device.type != "cpu":
        return f"needs the CPU, got {x.device.type}"
    return "is being compiled" if torch.compiler.is_compiling() else why_hidden(x)
