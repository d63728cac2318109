"""What the benchmark measures on a GPU."""

from __future__ import annotations

from benchmarking import comparison, profiling
from benchmarking.cases import Case
from benchmarking.implementations import IMPLEMENTATIONS
from benchmarking.roofline import measure_ceilings

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
    ceilings = measure_ceilings("cuda", "bf16", repeats=1)
    found = profiling.profile_case(IMPLEMENTATIONS["ours"], case, "x", ceilings)
    assert found.groups()["matmul"] > 0
    assert 0 < found.busy < found.wall
    floors = [entry for entry in found.entries if entry.floor is not None]
    assert {"attention_forward", "mlp_backward"} <= {entry.name for entry in floors}
    assert all(entry.seconds > entry.floor > 0 for entry in floors)


def test_training_by_graphs_is_measured():
    case, ours = (
        Case("tiny", (64, 64), 2, "bf16", "train", "cuda"),
        [IMPLEMENTATIONS["ours:graphs"]],
    )
    options = comparison.Options(3, False, False, Deadline(), lambda line: None)
    (result,) = comparison.plan([case], ours, False)
    for _ in comparison.measure_all([result], ours, options):
        pass
    (row,) = result.rows
    assert row.reason is None
    assert row.seconds > 0
