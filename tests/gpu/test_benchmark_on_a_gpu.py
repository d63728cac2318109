"""What the benchmark measures on a GPU."""

from __future__ import annotations

from benchmarking import comparison, profiling
from benchmarking.cases import Case
from benchmarking.implementations import IMPLEMENTATIONS

from swin_backbone.inference.timing import Deadline


def test_latency_comes_with_a_graph_and_memory_is_measured():
    case, ours = Case("tiny", (64, 64), 1, "bf16", "latency", "cuda"), [IMPLEMENTATIONS["ours"]]
    options = comparison.Options(3, False, False, Deadline(), lambda line: None)
    (result,) = comparison.plan([case], ours, False)
    for _ in comparison.measure_all([result], ours, options):
        pass
    eager, graph = result.rows
    assert (eager.reason, graph.reason) == (None, None)
    assert eager.peak_bytes > 4 * eager.parameters
    assert graph.seconds < eager.seconds


def test_profile_finds_products_and_launch_gaps():
    case = Case("tiny", (64, 64), 1, "bf16", "train", "cuda")
    found = profiling.profile_case(IMPLEMENTATIONS["ours"], case, "x")
    assert found.groups()["matmul"] > 0
    assert 0 < found.busy < found.wall
