"""Hooks that a module gets when it is compiled."""

from contextlib import AbstractContextManager, nullcontext

import torch

from swin_backbone.ops.versions import release


def seen() -> AbstractContextManager:
    """Within it, graphs ask for hooks of modules whenever they run, as they do since torch 2.14
    (2.11 was tried and did not), where a setting of torch's has them do so."""
    if release(torch.__version__) >= (2, 14):
        return nullcontext()
    return torch._dynamo.config.patch(skip_nnmodule_hook_guards=False)
