"""Masks copied as bits are the masks, whatever they hold."""

import numpy as np
import pytest
import torch

from swin_backbone.acceleration import packed_bitmaps
from swin_backbone.acceleration.packed_bitmaps import bitmaps_on, unpacked

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SHAPES = [(3, 5, 7), (2, 8, 16), (1, 1, 1), (0, 4, 4), (17,)]


def draw(shape, values=2, dtype=np.uint8):
    return np.random.default_rng(sum(shape)).integers(0, values, shape).astype(dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.int64, np.float32], ids=str)
@pytest.mark.parametrize("values", [1, 2, 256])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_torch_takes_them(shape, values, dtype, device):
    bitmaps = draw(shape, values, dtype)
    found = bitmaps_on(torch.device(device), bitmaps)
    assert found.device.type == device
    expected = torch.from_numpy(bitmaps)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_is_packed_is_unpacked(shape):
    bitmaps = draw(shape)
    found = unpacked(torch.from_numpy(np.packbits(bitmaps)), shape)
    assert torch.equal(found, torch.from_numpy(bitmaps))


@pytest.mark.parametrize("flip", [False, True])
def test_what_goes_as_bits(monkeypatch, flip):
    """To a device without values: an eighth of the bytes, if bits are all that is there."""
    went = []
    monkeypatch.setattr(
        packed_bitmaps, "copied_to", lambda host, to: went.append(host.numel()) or host.to(to)
    )
    for values, dtype, bytes_each in [(2, np.uint8, 1 / 8), (2, np.bool_, 1 / 8), (3, np.uint8, 1)]:
        bitmaps = draw((4, 8, 8), values, dtype)
        bitmaps = bitmaps[..., ::-1] if flip else bitmaps
        found = bitmaps_on(torch.device("meta"), bitmaps)
        assert found.shape == bitmaps.shape
        assert found.dtype == torch.from_numpy(bitmaps.copy()).dtype
        assert went.pop() == bytes_each * bitmaps.size
