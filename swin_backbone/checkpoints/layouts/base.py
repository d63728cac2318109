"""What an adapter from somebody's checkpoint layout to ours consists of."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

RECOMPUTED = "computed from the window size when needed"
CLASSIFIER = "belongs to the classification head"


class Layout(NamedTuple):
    """How one library names and orders the tensors of a Swin backbone.

    Attributes:
        name: how reports call it.
        renames: (pattern, replacement) pairs for :func:`re.sub`, applied in turn to a key.
        ignored: (pattern, reason) pairs; keys that match hold nothing for the backbone.
        convert: turns one tensor, given its new key, into our order of elements.
    """

    name: str
    renames: Sequence[tuple[str, str]] = ()
    ignored: Sequence[tuple[str, str]] = ()
    convert: Callable[[str, Tensor], Tensor] = lambda key, tensor: tensor

    def rename(self, key: str) -> str:
        """Our name for one of the layout's keys."""
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key

    def why_ignored(self, key: str) -> str | None:
        """Why a key of the layout is left out, or ``None`` if it is not."""
        for pattern, reason in self.ignored:
            if re.search(pattern, key):
                return reason
        return None
