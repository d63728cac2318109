"""Masks copied as bits are the masks, whatever they hold."""

import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from swin_backbone.acceleration import packed_bitmaps
from swin_backbone.acceleration.packed_bitmaps import (
    THREADS,
    bitmaps_on,
    prepared_bitmaps,
    prepared_by_threads,
    unpacked,
)

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
        packed_bitmaps, "ready_for", lambda host, to: went.append(host.numel()) or host
    )
    for values, dtype, bytes_each in [(2, np.uint8, 1 / 8), (2, np.bool_, 1 / 8), (3, np.uint8, 1)]:
        bitmaps = draw((4, 8, 8), values, dtype)
        bitmaps = bitmaps[..., ::-1] if flip else bitmaps
        found = bitmaps_on(torch.device("meta"), bitmaps)
        assert found.shape == bitmaps.shape
        assert found.dtype == torch.from_numpy(bitmaps.copy()).dtype
        assert went.pop() == bytes_each * bitmaps.size


@pytest.mark.parametrize("device", DEVICES)
def test_threads_prepare_them(device):
    """Of more images than there are threads, in their order, each once."""
    drawn = [draw((number, 9, 11), 2 + number % 2) for number in range(2 * THREADS + 1)]
    with prepared_by_threads(prepared_bitmaps, torch.device(device), drawn) as coming:
        found = [copied() for copied in coming]
        assert all(copied() is one for copied, one in zip(coming, found, strict=True))
    assert [one.device.type for one in found] == [device] * len(drawn)
    for one, bitmaps in zip(found, drawn, strict=True):
        assert torch.equal(one.cpu(), torch.from_numpy(bitmaps))


def test_what_a_thread_raises_is_raised_where_it_is_asked_for():
    def prepare(device, masks):
        raise ValueError(f"no masks in {masks}")

    with prepared_by_threads(prepare, torch.device("cpu"), ["a", "b"]) as coming:
        for copied, name in zip(coming, "ab", strict=True):
            for _ in range(2):
                with pytest.raises(ValueError, match=f"no masks in {name}"):
                    copied()


def test_threads_prepare_on_the_device_of_the_model(monkeypatch):
    """And not on the first one, which a thread begins with."""
    entered, prepared = [], []

    @contextmanager
    def on(device):
        entered.append(device)
        yield
        entered.append(None)

    monkeypatch.setattr(torch.cuda, "device", on)
    second = torch.device("cuda", 1)
    with prepared_by_threads(
        lambda device, masks: prepared.append(entered[-1]) or (lambda: masks), second, ["a"]
    ) as coming:
        assert coming[0]() == "a"
    assert prepared == [second]
    assert entered == [second, None]


def test_a_step_that_fails_does_not_wait_for_threads():
    """What is not begun never is."""
    begun, go_on = [], threading.Event()

    def prepare(device, masks):
        begun.append(masks)
        go_on.wait(60)
        return lambda: masks

    with (
        pytest.raises(RuntimeError, match="the step failed"),
        prepared_by_threads(prepare, torch.device("cpu"), range(3 * THREADS)),
    ):
        raise RuntimeError("the step failed")
    go_on.set()
    assert len(begun) <= THREADS
