"""Copies of weights in the compute dtype."""

import pytest
import torch
from torch import nn

from swin_backbone import SwinBackbone
from swin_backbone.ops import MAPS
from swin_backbone.ops import weight_copies as low_precision
from swin_backbone.ops.weight_copies import LowPrecisionCopies, in_compute_dtype

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # there in Triton's interpreter


def test_copies_are_the_weights_rounded_and_made_at_once():
    weights = [nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.randn(24))]
    made = LowPrecisionCopies(weights, torch.bfloat16)
    copies = in_compute_dtype(weights, torch.bfloat16, made)
    assert in_compute_dtype(weights[:1], torch.bfloat16, made)[0] is copies[0]
    assert copies[0].untyped_storage().data_ptr() == copies[1].untyped_storage().data_ptr()
    for copy, weight in zip(copies, weights, strict=True):
        assert torch.equal(copy, weight.detach().to(torch.bfloat16))
        assert not copy.requires_grad
        assert in_compute_dtype([weight], torch.bfloat16)[0] is not copy, (
            "found without being given"
        )
        assert in_compute_dtype([weight], torch.float16, made)[0].dtype == torch.float16


def test_later_changes_are_seen_by_the_next_copies():
    weights = [nn.Parameter(torch.randn(4, 4))]
    for _ in range(2):
        weights[0].data.add_(1.0)
        made = LowPrecisionCopies(weights, torch.float16)
        copy = in_compute_dtype(weights, torch.float16, made)[0]
        assert torch.equal(copy, weights[0].detach().half())


def test_a_parameter_that_changed_its_shape_is_cast_anew():
    """As those of a sharded module do when it gathers them."""
    weight = nn.Parameter(torch.randn(6))
    made = LowPrecisionCopies([weight], torch.bfloat16)
    weight.data = torch.randn(4, 3)
    assert in_compute_dtype([weight], torch.bfloat16, made)[0].shape == (4, 3)


def test_nothing_is_copied_without_need():
    class Sharded(nn.Parameter):
        pass

    sharded, plain = Sharded(torch.randn(3)), nn.Parameter(torch.randn(3))
    made = LowPrecisionCopies([sharded, plain], torch.bfloat16)
    assert made.find(sharded) is None
    made = LowPrecisionCopies([plain], torch.float32)
    copy, nothing = in_compute_dtype([plain, None], torch.float32, made)
    assert copy.data_ptr() == plain.data_ptr()
    assert nothing is None


def test_copies_lie_where_their_weights_do():
    """A model's stages may lie on different devices, and have different dtypes."""
    here, wide = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(5).double())
    there = nn.Parameter(torch.empty(6, 2, device="meta"))
    low = nn.Parameter(torch.randn(2).bfloat16())
    weights = [here, there, wide, low]
    made = LowPrecisionCopies(weights, torch.bfloat16)
    copies = in_compute_dtype(weights, torch.bfloat16, made)
    again = in_compute_dtype(weights, torch.bfloat16, made)
    assert [a is b for a, b in zip(copies[:3], again, strict=False)] == [True] * 3
    assert [copy.device.type for copy in copies] == ["cpu", "meta", "cpu", "cpu"]
    for copy, weight in ((copies[0], here), (copies[2], wide), (copies[3], low)):
        assert torch.equal(copy, weight.detach().bfloat16())


@pytest.mark.parametrize("with_cp", [False, True])
def test_a_block_takes_the_copies_it_is_given_when_it_recomputes_too(with_cp, monkeypatch):
    pytest.importorskip("triton")
    model = SwinBackbone(
        embed_dims=32, depths=(1,), num_heads=(1,), strides=(4,), out_indices=(0,), window_size=4,
        backend="triton", with_cp=with_cp,
    ).to(DEVICE)  # fmt: skip
    block = model.stages[0].blocks[0]
    x = torch.randn(1, 4, 4, 32, device=DEVICE, requires_grad=True)
    casts = []
    cast = low_precision.cast_weight
    monkeypatch.setattr(low_precision, "cast_weight", lambda *a: casts.append(a) or cast(*a))
    with torch.autocast(DEVICE, torch.bfloat16):
        block(x, MAPS, LowPrecisionCopies(block.linear_weights(), torch.bfloat16)).sum().backward()
        assert casts == []
        block(x, MAPS).sum().backward()
    assert len(casts) == (10 if with_cp else 5)
