"""What tests of kernels see in Triton's interpreter: each access that leaves the tensors given."""

import pytest
import torch
from helpers import checked_memory
from helpers.triton_kernels import UNCHECKED, triton  # skips first where no kernel can run
from triton import language as tl

pytestmark = pytest.mark.skipif(UNCHECKED is not None, reason=f"not checked {UNCHECKED}")


@triton.jit
def copy(source, other, target, shift, count, block: tl.constexpr):
    place = tl.program_id(0) * block + tl.arange(0, block)
    known = place < count
    values = tl.load(source + place + shift, mask=known, other=0.0)
    tl.store(target + place, values + tl.load(other), mask=known)


@triton.jit
def write_at(places, target, values, count: tl.constexpr):
    place = tl.arange(0, count)
    tl.store(target + tl.load(places + place), tl.load(values + place))


@triton.jit
def share(target, count: tl.constexpr, way: tl.constexpr):
    program = tl.program_id(0)
    if way == "write":
        tl.store(target, program)
    if way == "read":
        tl.store(target + program, tl.load(target + (program == 0)) + program)
    if way == "add":
        tl.atomic_add(target, 1)
    if way == "own":
        tl.store(target + program, program)
        tl.store(target + program, tl.load(target + program) + 1)


def start_copy(count, shift=0, size=6, view=False):
    """Copy ``count`` elements from the ``shift``-th on, of ``size`` that a tensor has."""
    source = torch.arange(2.0 * size)[:size] if view else torch.arange(float(size))
    target = torch.zeros(size)
    copy[(2,)](source, torch.zeros(1), target, shift, count, block=4)
    return target


def test_what_lies_within_is_read_and_written():
    assert torch.equal(start_copy(6), torch.arange(6.0))
    assert torch.equal(start_copy(4, shift=2)[:4], torch.arange(2.0, 6.0))


@pytest.mark.parametrize("view", [False, True])
@pytest.mark.parametrize(
    ("count", "shift", "message"),
    [
        (6, 1, r"\(1, 0, 0\) of copy reads element 6 of source, which has 6"),
        (6, -1, r"\(0, 0, 0\) of copy reads element -1 of source"),
        (6, 10**6, "reads element 1000000 of source"),
        (7, 0, "reads element 6 of source"),
    ],
)
def test_what_lies_beyond_is_not(count, shift, message, view):
    """Nor where memory goes on behind a view."""
    with pytest.raises(Exception, match=message):
        start_copy(count, shift, view=view)


def test_writes_beyond():
    with pytest.raises(Exception, match="of copy writes element 6 of target, which has 6"):
        copy[(1,)](torch.zeros(8), torch.zeros(1), torch.zeros(6), 0, 8, block=8)


def test_an_empty_tensor_has_nothing_to_read():
    with pytest.raises(Exception, match="reads element 0 of other, which has 0"):
        copy[(1,)](torch.zeros(8), torch.zeros(0), torch.zeros(8), 0, 8, block=8)


def test_one_store_writes_one_value_to_an_element():
    target = torch.zeros(4)
    write_at[(1,)](torch.tensor([0, 1, 1, 3]), target, torch.tensor([1.0, 2.0, 2.0, 4.0]), count=4)
    assert target.tolist() == [1, 2, 0, 4]
    with pytest.raises(Exception, match="of write_at writes different values to one element"):
        write_at[(1,)](torch.tensor([0, 1, 1, 3]), target, torch.arange(4.0), count=4)


def test_programs_share_what_they_add_to_atomically():
    target = torch.zeros(3, dtype=torch.int32)
    share[(3,)](target, count=3, way="add")
    share[(3,)](target[1:], count=1, way="add")
    assert target.tolist() == [3, 3, 0]
    share[(3,)](target, count=3, way="own")
    assert target.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("write", r"\(1, 0, 0\) of share writes element 0 of target, another program's"),
        ("read", r"\(1, 0, 0\) of share reads element 0 of target, another program's"),
    ],
)
def test_programs_share_nothing_else(way, message):
    with pytest.raises(Exception, match=message):
        share[(2,)](torch.zeros(3, dtype=torch.int32), count=3, way=way)


def test_an_interpreter_of_another_kind_is_not_touched(monkeypatch):
    from triton.runtime import interpreter

    before = interpreter.GridExecutor.__call__
    monkeypatch.setitem(checked_memory.NEEDED, "InterpreterBuilder", ("create_load_of_lines",))
    reason = checked_memory.check_accesses()
    assert reason == (
        f"with Triton {triton.__version__}, whose interpreter has no "
        "InterpreterBuilder.create_load_of_lines"
    )
    assert interpreter.GridExecutor.__call__ is before
