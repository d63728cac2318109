"""Tables that a bounded memory has forgotten, and those who need them still."""

import gc
import threading
import weakref

import torch

from swin_backbone.ops.geometry.resampling import axis
from swin_backbone.ops.kept_tables import keeping


def tables_of(size):
    return axis(size, 3 * size, False)


def forget():
    for size in range(1000, 1300):
        tables_of(size)
    gc.collect()


def test_tables_asked_for_are_kept_whichever_thread_asks():
    kept = []
    with keeping(kept):
        found = [weakref.ref(tables_of(7).weight)]
        other = threading.Thread(target=lambda: found.append(weakref.ref(tables_of(9).weight)))
        other.start()
        other.join()
    forget()
    assert all(reference() is not None for reference in found)
    kept.clear()
    gc.collect()
    assert all(reference() is None for reference in found)


def test_tables_are_not_kept_otherwise_and_are_made_again():
    before = tables_of(11).weight.clone()
    reference = weakref.ref(tables_of(11).weight)
    assert tables_of(11).weight is reference()
    forget()
    assert reference() is None
    assert torch.equal(tables_of(11).weight, before)


def test_several_keep_the_same_tables():
    one, two = [], []
    with keeping(one):
        with keeping(two):
            tables_of(13)
        tables_of(14)
    assert (len(one), len(two)) == (2, 1)
    tables_of(15)
    assert len(one) == 2
