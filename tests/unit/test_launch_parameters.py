"""Launch parameters of a step are timed one kernel after the other, in Triton's interpreter."""

import pytest
import torch
from benchmarking import launch_parameters
from benchmarking.launch_parameters import WIDE, candidates, time_parameters
from helpers.triton_kernels import DEVICE  # skips first where no kernel can run

from swin_backbone.ops.triton import linear_op, tuning
from swin_backbone.ops.triton.launch import Config
from swin_backbone.ops.triton.tuning import Work

WORK = Work("linear", 32, 40, torch.bfloat16)


def test_parts_have_every_candidate_once():
    whole, parts = candidates()(WORK), [candidates(index, 3)(WORK) for index in range(3)]
    taken = tuning.untried("linear", 32, torch.bfloat16)
    assert all(part[0] == taken for part in (whole, *parts))
    assert sorted(one for part in parts for one in map(str, part[1:])) == sorted(
        map(str, whole[1:])
    )
    assert set(whole[1:]) == set(WIDE["linear"]) - {taken}
    others = Work("streamed_forward", 32, 40, torch.bfloat16)
    assert set(candidates()(others)) >= set(tuning.CANDIDATES["streamed_forward"])


@pytest.mark.parametrize("kernel", WIDE)
def test_candidates_are_of_kernels_and_none_is_known_to_fail(kernel):
    assert kernel in tuning.CAUTIOUS
    rows = "columns" if kernel == "mlp_weight_gradients" else "rows"  # of its products
    for one in WIDE[kernel]:
        if "attention" not in kernel:  # whose rows are a window's
            assert getattr(one, rows) >= 16 * one.warps
        assert one.stages >= 2


def test_times_are_told_by_kernel_the_fastest_first(monkeypatch):
    monkeypatch.setattr(linear_op, "ENOUGH_PROGRAMS", 1)  # few rows are enough for large blocks
    slow, fast = (Config(rows=32, columns=c, depth=32, warps=2) for c in (32, 64))
    a, weight, bias, residual = (
        torch.randn(*shape, device=DEVICE) for shape in ((1, 40, 32), (48, 32), (48,), (1, 40, 48))
    )
    results = []

    def run():
        results.append(linear_op.multiply(a, weight, bias, residual))

    times = iter([3e-3, 2e-3, 1e-3])

    def seconds(repeat):
        repeat()
        return next(times)

    before = tuning.chosen_tuner
    rows = time_parameters(
        run, seconds, lambda work: [tuning.untried(*work[:2], work[3]), slow, fast]
    )
    assert tuning.chosen_tuner is before
    assert [row["ms"] for row in rows] == [1.0, 2.0, 3.0]
    assert [row["columns"] for row in rows][:2] == [64, 32]
    assert {tuple(row) for row in rows} == {launch_parameters.COLUMNS}
    about = {name: rows[0][name] for name in ("kernel", "channels", "bits", "rows_about")}
    assert about == {"kernel": "linear", "channels": 48, "bits": 32, "rows_about": 64}
    assert rows[0]["registers"] == ""
    expected = residual + a @ weight.t() + bias
    for result in results:  # 1e-4: float32 sums of 32 products
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)
