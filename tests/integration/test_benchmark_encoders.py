"""The benchmark of other libraries' encoders, small and on the CPU."""

import csv
import sys
import time

import pytest
from helpers.paths import ROOT

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
