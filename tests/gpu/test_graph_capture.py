"""Capturing a CUDA graph."""

import torch

from swin_backbone.ops.triton import tuning


def test_nothing_is_timed_while_a_graph_is_captured():
    x = torch.zeros(2, device="cuda")
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        allowed = tuning.may_time(x)
        x + 1
    assert not allowed
