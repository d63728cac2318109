"""Names of parameters inside what torch wraps around modules."""

from __future__ import annotations

import re

#: What FSDP, activation checkpointing and ``torch.compile`` put into the names of what they wrap.
_WRAPPED = re.compile(r"_(fsdp_wrapped_module|checkpoint_wrapped_module|orig_mod)\.")


def unwrapped_name(name: str) -> str:
    """A parameter's name as it is without the wrappers; another name stays as it is."""
    return _WRAPPED.sub("", name)
