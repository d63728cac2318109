"""Whether torch.export looks on, and not torch.compile."""

from __future__ import annotations

import torch

from ..versions import release


def _by_flag() -> bool:
    return torch.compiler._is_exporting_flag


#: From 2.8 to 2.13 the flag is set in every export; but the function that asks for it is taken as
#: true by torch.compile, too (https://github.com/pytorch/pytorch/issues/176347). With 2.7 the two
#: cannot be told apart, and both take plain operators; before, nothing tells of an export.
_READS_FLAG = (2, 8) <= release(torch.__version__)[:2] < (2, 14)

_asked = getattr(torch.compiler, "is_exporting", lambda: False)
if _READS_FLAG and hasattr(torch.compiler, "_is_exporting_flag"):
    _asked = _by_flag


def is_exporting() -> bool:
    """Whether the model is traced to run elsewhere, where there may be no Triton (torch >= 2.7)."""
    return _asked()
