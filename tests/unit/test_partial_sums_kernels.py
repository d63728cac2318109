"""Sums of partial sums against float64: on a GPU, or small in an interpreter."""

import pytest
import torch
from helpers.triton_kernels import DEVICE  # skips first where no kernel can run

from swin_backbone.ops.triton import launch
from swin_backbone.ops.triton import partial_sums as sums
from swin_backbone.ops.triton.partial_sums import Pairs, summed

MATRICES = [
    [(1, 1)],
    [(3, 7)],
    [(1100, 33)],
    [(20, 5), (1500, 17)],
    [(65, 96), (1, 200), (2050, 3)],
]


@pytest.fixture(autouse=True)
def poisoned():
    """Fresh memory is filled with NaN, so that what a kernel leaves out shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def relative_error(actual, exact):
    """Of the largest error to the largest sum."""
    return ((actual.double() - exact).abs().max() / exact.abs().max()).item()


def draw(rows, columns):
    """Shares that do not cancel out, with a NaN behind the last row, which is not to be read."""
    memory = torch.full((rows + 1, columns), float("nan"), device=DEVICE)
    memory[:rows] = torch.rand(rows, columns, device=DEVICE) + 0.5
    return memory[:rows]


@pytest.mark.parametrize("shapes", MATRICES)
def test_columns(shapes):
    """1e-5: thousands of rows, rounded to 6e-8 each, which numpy adds one after the other."""
    partials = [draw(*shape) for shape in shapes]
    exact = torch.cat([matrix.double().sum(0) for matrix in partials])
    pieces = [1, len(exact) - 1]
    first, again = (summed(partials, pieces) for _ in range(2))
    assert [len(piece) for piece in first] == pieces
    assert relative_error(torch.cat(first), exact) <= 1e-5
    assert all(map(torch.equal, first, again))


def table_of(pairs, partials):
    """Token by token: the gradient of each offset's row of the bias table, in float64."""
    table = torch.zeros(pairs.table_rows, pairs.heads, dtype=torch.float64, device=DEVICE)
    sums = partials[:, : pairs.columns].double().sum(0).view(pairs.heads, pairs.pairs)
    tokens = [(y, x) for y in range(pairs.height) for x in range(pairs.width)]
    for query, (y, x) in enumerate(tokens):
        for key, (v, u) in enumerate(tokens):
            row = (y - v + pairs.height - 1) * (2 * pairs.width - 1) + x - u + pairs.width - 1
            table[row] += sums[:, query * pairs.keys + key]
    return table


@pytest.mark.parametrize(
    ("height", "width", "heads"), [(1, 1, 1), (2, 3, 2), (5, 2, 3), (7, 7, 2), (2, 12, 1)]
)
@pytest.mark.parametrize("runs", [1, 37])
@pytest.mark.parametrize("beside", [False, True])
def test_pairs_of_an_attention(height, width, heads, runs, beside):
    """Beside columns of its own matrix, or by themselves; what stands for no pair is not read."""
    keys = height * width + 3
    pairs = Pairs(heads, (height * width + 1) * keys, keys, height, width)
    own, beyond = 6, 2
    partials = draw(runs, pairs.columns + own + beyond)
    sums_of_pairs = partials[:, : pairs.columns].view(runs, heads, -1, keys)
    sums_of_pairs[..., height * width :] = float("nan")
    sums_of_pairs[:, :, height * width :] = float("nan")
    others = [draw(40, 5), draw(3, 9)]
    pieces = [own, 5, 9, pairs.table_rows * heads]
    matrices = [partials[:, pairs.columns : pairs.columns + own], *others]
    given = [partials, *others], pieces, pairs
    if beside:  # with more rows of its own
        matrices[0] = draw(3 * runs, own + beyond)
        given = [matrices[0], *others], pieces, pairs, partials[:, : pairs.columns].contiguous()
        matrices[0] = matrices[0][:, :own]
    *vectors, table = summed(*given)
    for vector, matrix in zip(vectors, matrices, strict=True):
        assert relative_error(vector, matrix.double().sum(0)) <= 1e-5
    assert relative_error(table.view(-1, heads), table_of(pairs, partials)) <= 1e-5
    again = summed(*given)
    assert all(map(torch.equal, [*vectors, table], again))


def test_blocks_of_offsets_smaller_than_a_row(monkeypatch):
    """As in windows that are wide; launches are remembered by shape."""
    monkeypatch.setattr(sums, "ELEMENTS", 128)
    monkeypatch.setattr(sums, "FEW", 4)
    monkeypatch.setattr(sums, "MANY", 16)
    launch.forget_launches()
    try:
        pairs = Pairs(2, 36, 6, 1, 6)
        partials = draw(19, pairs.columns + 11)
        vector, table = summed([partials], [11, 22], pairs)
    finally:
        launch.forget_launches()
    assert relative_error(vector, partials[:, pairs.columns :].double().sum(0)) <= 1e-5
    assert relative_error(table.view(-1, 2), table_of(pairs, partials)) <= 1e-5
