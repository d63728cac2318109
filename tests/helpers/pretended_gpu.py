"""A GPU that is not there: tensors on it hold nothing, and say what a compiler asks them."""

from contextlib import contextmanager

import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from swin_backbone.ops.torch_internals.choosing import find


@contextmanager
def pretended_gpu(monkeypatch):
    """Within, tensors can be made on ``'cuda'``; autocast works there, and float32 has tf32."""
    amp, matmul = find("torch.cuda.amp.common"), torch.backends.cuda.matmul
    monkeypatch.setattr(amp, "amp_definitely_not_available", lambda: False)
    before, matmul.allow_tf32 = matmul.allow_tf32, True
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        matmul.allow_tf32 = before


def move(model):
    """Have parameters and buffers of a model on it, without numbers."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            there = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda")
            setattr(module, name, nn.Parameter(there))
        for name, buffer in module.named_buffers(recurse=False):
            there = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
            setattr(module, name, there)
    return model
