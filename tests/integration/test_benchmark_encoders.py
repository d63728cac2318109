"""The benchmark of other libraries' encoders, small and on the CPU."""

import csv
import sys
import time
from functools import partial

import pytest
import torch
from helpers.graph_recorders import RunsAgain
from helpers.paths import ROOT

from swin_backbone.acceleration import graphed_encoders
from swin_backbone.graphs import graph_backbone

pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("timm", reason="timm is not installed")


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import benchmark_encoders

    small = {letter: (16, [1, 1, 1, 1], [1, 2, 4, 8]) for letter in benchmark_encoders.SIZES}
    monkeypatch.setattr(benchmark_encoders, "SIZES", small)
    yield benchmark_encoders
    sys.modules.pop("benchmark_encoders")


def run(benchmark, tmp_path, *arguments):
    path = tmp_path / "rows.csv"
    options = ["--device", "cpu", "--size", "64", "--batch", "1", "--repeats", "1"]
    assert benchmark.main([*options, "--csv", str(path), *arguments]) == 0
    return list(csv.DictReader(path.read_text().splitlines()))


def test_every_case_and_mode_gives_rows(benchmark, tmp_path):
    cases = ["backbone-L", "torchvision-T", "swinv2-T"]
    rows = run(benchmark, tmp_path, "--cases", *cases)
    expected = [
        (case, mode, way)
        for case in cases
        for mode in ("forward", "train")
        for way in ("untouched", "accelerated")
    ]
    assert [(row["case"], row["mode"], row["way"]) for row in rows] == expected
    assert all(float(row["ms"]) > 0 and not row["reason"] for row in rows)


def test_what_fails_is_a_row(benchmark, tmp_path, monkeypatch):
    def fails(size):
        raise RuntimeError("no such model")

    monkeypatch.setitem(benchmark.CASES, "timm-B", benchmark.Case(fails, 1, 64))
    rows = run(benchmark, tmp_path, "--cases", "timm-B", "backbone-T", "--modes", "forward")
    assert [row["reason"] for row in rows] == ["RuntimeError: no such model"] * 2 + [""] * 2


@pytest.fixture
def recorders(monkeypatch):
    """Of graphs that are recorded on a CPU, too."""
    made = []

    def record_on(device):
        made.append(RunsAgain())
        return made[-1]

    graph = partial(graph_backbone, record_on=record_on)
    monkeypatch.setattr(graphed_encoders, "graph_backbone", graph)
    return made


@pytest.mark.parametrize("case", ["backbone-T", "classifier-B"])
def test_graphs_that_are_replayed_are_found(benchmark, tmp_path, recorders, case):
    """Of a backbone, and of one in a model."""
    size = "64" if case == "backbone-T" else "224"  # the smallest that it takes
    rows = run(benchmark, tmp_path, "--cases", case, "--ways", "graphs", "--size", size)
    assert [bool(row["ms"]) for row in rows] == [True, True], rows
    assert [recorder.recorded > 0 < recorder.replays for recorder in recorders] == [True] * 2


def test_graphs_that_are_not_there_are_a_reason(benchmark, tmp_path, recorders, monkeypatch):
    """None on this device; and none of calls that were too few, of a shape each."""
    monkeypatch.setattr(benchmark, "WARM_UP", 1)
    few = run(benchmark, tmp_path, "--cases", "backbone-T", "--ways", "graphs")
    assert ["nothing was captured" in row["reason"] for row in few] == [True, True]
    monkeypatch.undo()
    small = (16, [1, 1, 1, 1], [1, 2, 4, 8])
    monkeypatch.setitem(benchmark.SIZES, "T", small)
    none = run(benchmark, tmp_path, "--cases", "backbone-T", "--ways", "graphs")
    assert ["graphs are CUDA's" in row["reason"] for row in none] == [True, True]


def test_both_ways_that_are_compiled(benchmark, tmp_path, monkeypatch):
    """Both are traced; to make code of them takes minutes."""
    compiled, compile_ = [], torch.compile

    def traced(model):
        compiled.append(model)
        return compile_(model, backend="eager")

    monkeypatch.setattr(torch, "compile", traced)
    ways = ["--ways", "compiled", "accelerated-compiled", "--modes", "train"]
    rows = run(benchmark, tmp_path, "--cases", "backbone-T", *ways)
    assert all(float(row["ms"]) > 0 and not row["reason"] for row in rows)
    own = [any("forward" in vars(part) for part in one.modules()) for one in compiled]
    assert own == [False, True]


def test_the_time_limit_breaks_off_what_runs(benchmark, tmp_path, monkeypatch):
    """Also a case that would never end; what was measured before stays."""
    plain = benchmark.CASES["backbone-T"]

    def takes_forever(size):
        while True:
            time.sleep(0.01)

    monkeypatch.setitem(benchmark.CASES, "timm-B", benchmark.Case(takes_forever, 1, 64))
    monkeypatch.setitem(benchmark.CASES, "upernet-T", plain)
    cases = ["backbone-T", "timm-B", "upernet-T"]
    rows = run(benchmark, tmp_path, "--cases", *cases, "--modes", "forward", "--time-limit", "15")
    assert [bool(row["ms"]) for row in rows] == [True] * 2 + [False] * 4
    assert {row["reason"] for row in rows[2:]} == {"the time limit has passed"}
