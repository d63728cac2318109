"""Accelerated encoders of other libraries that take the way of a GPU in Triton's interpreter."""

import importlib

import torch

from swin_backbone.ops import dispatch

from .triton_kernels import DEVICE  # skips where none can run

ON_GPU = ["encoder_norms", "halves", "patch_embeddings", "patch_mergings", "transformers_stages"]
#: Questions of which way, and which of their arguments is the tensor.
WAYS = {"why_not_fused": 0, "residual_branch": 1, "post_norm_branch": 1}
WAYS |= {"layer_norm": 0, "patch_merging": 0}


def take_kernels(monkeypatch):
    """From now on, tensors but those of float64 go where a GPU's do."""
    if DEVICE == "cuda":
        return
    for name in ON_GPU:
        module = importlib.import_module(f"swin_backbone.acceleration.swin.{name}")
        monkeypatch.setattr(module, "on_gpu", is_for_kernels)
    for name, index in WAYS.items():
        monkeypatch.setattr(dispatch, name, by_kernels(getattr(dispatch, name), index))


def is_for_kernels(x):
    return x.dtype != torch.float64  # in which blocks are tried


def by_kernels(ask, index):
    """The question, whose answer for the CPU is that of a GPU."""
    answer = None if ask is dispatch.why_not_fused else "triton"

    def asked(*arguments, **options):
        return answer if is_for_kernels(arguments[index]) else ask(*arguments, **options)

    return asked
