"""The benchmarks of detectors and of their operations run, and what they write can be read."""

import csv

import benchmark_detector_ops
import benchmark_detectors
import pytest

pytest.importorskip("mmcv")
pytest.importorskip("torchvision")


def test_operations(tmp_path):
    path = tmp_path / "x.csv"
    sizes = ("--shrink", "16", "--cases", "dino decoder", "--boxes", "50")
    arguments = ["--device", "cpu", "--repeats", "1", "--dtypes", "float32", *sizes]
    status = benchmark_detector_ops.main([*arguments, "--csv", str(path)])
    assert status == 0
    rows = list(csv.DictReader(path.open()))
    assert {row["way"] for row in rows} >= {"ours", "mmcv, PyTorch", "torchvision"}
    assert all(float(row["forward_ms"]) > 0 for row in rows)
    assert [bool(row["forward_backward_ms"]) for row in rows] == [
        "points" in r["case"] for r in rows
    ]


@pytest.mark.parametrize("text", ["mask-rcnn", "mask-rcnn:0:train", "yolo:2:train", "dino:2:fly"])
def test_a_task_that_is_none_is_named(text, capsys):
    pytest.importorskip("mmdet")
    with pytest.raises(SystemExit):
        benchmark_detectors.main(["--tasks", text])
    assert text in capsys.readouterr().err


def test_what_fails_is_a_row_with_the_reason(monkeypatch, tmp_path):
    pytest.importorskip("mmdet")

    def fail(*_):
        raise ImportError("no such package")

    monkeypatch.setattr(benchmark_detectors, "detector_runner", fail)
    path = tmp_path / "x.csv"
    arguments = ["--tasks", "mask-rcnn:1:train", "--ways", "mmdet", "--csv", str(path)]
    assert benchmark_detectors.main([*arguments, "--device", "cpu", "--repeats", "1"]) == 0
    (row,) = csv.DictReader(path.open())
    assert row["reason"] == "ImportError: no such package"
