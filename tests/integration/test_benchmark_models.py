"""The benchmark of whole models: every way runs, and what it writes can be read."""

import csv

import benchmark_models
import pytest
from benchmarking import segmentors

from swin_backbone.model import arguments

QUICK = ("--repeats", "1", "--device", "cpu")


@pytest.fixture
def small(monkeypatch):
    """An architecture that takes no time."""
    monkeypatch.setitem(arguments.ARCHITECTURES, "tiny", (8, (1, 1, 1, 1), (1, 1, 1, 1)))


@pytest.mark.slow
def test_every_way_is_a_row(small, tmp_path):
    slow_or_cuda = ("compiled", "graphs")
    ways = [name for name in segmentors.NAMES if not any(word in name for word in slow_or_cuda)]
    status = benchmark_models.main(
        [
            *QUICK,
            "--tasks",
            "T2train",
            "T1predict",
            "--size",
            "64",
            "--ways",
            *ways,
            "--csv",
            str(tmp_path / "x.csv"),
            "--plot",
            str(tmp_path / "x.png"),
        ]
    )
    assert status == 0
    rows = list(csv.DictReader((tmp_path / "x.csv").open()))
    assert [row["way"] for row in rows] == 2 * ways
    for row in rows:
        assert not row["reason"]
        assert float(row["ms"]) > 0
    assert (tmp_path / "x.png").stat().st_size > 5_000
    again = tmp_path / "again.png"
    assert benchmark_models.main(["--show", str(tmp_path / "x.csv"), "--plot", str(again)]) == 0
    assert again.stat().st_size > 5_000


def test_what_fails_is_a_row_with_the_reason(small, monkeypatch, tmp_path):
    def fail(*_):
        raise ImportError("no such package")

    monkeypatch.setattr(segmentors, "transformers_runner", fail)
    benchmark_models.main(
        [
            *QUICK,
            "--tasks",
            "T1predict",
            "--size",
            "32",
            "--ways",
            "transformers",
            "--csv",
            str(tmp_path / "x.csv"),
        ]
    )
    (row,) = csv.DictReader((tmp_path / "x.csv").open())
    assert row["reason"] == "ImportError: no such package"
    assert row["ms"] == ""


@pytest.mark.parametrize("text", ["T16", "X1train", "T0train", "T1fly"])
def test_a_task_that_is_none_is_named(text, capsys):
    with pytest.raises(SystemExit):
        benchmark_models.main(["--tasks", text])
    assert text in capsys.readouterr().err
