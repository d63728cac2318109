"""The benchmarks of detectors and of their operations run, and what they write can be read."""

import csv
import sys

import benchmark_detector_ops
import benchmark_detectors
import pytest
import torch
from benchmarking import detectors, results, runners

pytest.importorskip("mmcv")
pytest.importorskip("torchvision")


SMALL = ("--shrink", "16", "--cases", "dino decoder", "--regions", "mask-rcnn masks")
SMALL += ("--boxes", "50", "--device", "cpu", "--repeats", "1")


def test_operations(tmp_path):
    path = tmp_path / "x.csv"
    arguments = [*SMALL, "--dtypes", "float32", "--csv", str(path)]
    assert benchmark_detector_ops.main(arguments) == 0
    rows = list(csv.DictReader(path.open()))
    assert {row["case"] for row in rows} == {
        "dino decoder points",
        "mask-rcnn masks regions",
        "50 boxes, 0.7",
    }
    assert {row["way"] for row in rows} >= {"ours", "mmcv, PyTorch", "torchvision"}
    assert all(float(row["forward_ms"]) > 0 for row in rows)
    assert not any(row["errors"] for row in rows)
    for row in rows:
        assert bool(row["forward_backward_ms"]) == ("boxes," not in row["case"])
        assert row["same"] == ("yes" if "boxes," in row["case"] else "")


@pytest.mark.slow
def test_errors_thresholds_and_ties_of_operations(tmp_path):
    """Distances of the result and of each gradient, which are roundings of the dtype."""
    path = tmp_path / "x.csv"
    more = ["--errors", "--thresholds", "0.3", "0.5", "--ties", "--dtypes", "float32", "bfloat16"]
    assert benchmark_detector_ops.main([*SMALL, *more, "--csv", str(path)]) == 0
    rows = list(csv.DictReader(path.open()))
    assert len({row["case"] for row in rows if row["same"]}) == 4
    assert all(row["same"] == "yes" for row in rows if row["same"])
    for row in rows:
        if row["same"]:
            continue
        errors = [float(error) for error in row["errors"].split(", ")]
        assert len(errors) == (4 if "points" in row["case"] else 5)
        least, most = (1e-3, 1e-1) if row["dtype"] == "bfloat16" else (1e-8, 1e-5)
        if row["way"] == "ours":
            assert least < max(errors) < most


@pytest.mark.parametrize("text", ["mask-rcnn", "mask-rcnn:0:train", "yolo:2:train", "dino:2:fly"])
def test_a_task_that_is_none_is_named(text, capsys):
    pytest.importorskip("mmdet")
    with pytest.raises(SystemExit):
        benchmark_detectors.main(["--tasks", text])
    assert text in capsys.readouterr().err


@pytest.fixture
def small(monkeypatch):
    """Detectors of a few channels."""
    pytest.importorskip("mmdet")
    from helpers.paths import ROOT
    from helpers.small_detector import small_detector

    paths = {name: ROOT / "configs" / path for name, path in detectors.CONFIGS.items()}
    monkeypatch.setattr(detectors, "read_config", lambda name: small_detector(paths[name]))


def rows_of(path):
    return list(csv.DictReader(path.open()))


TINY = ("--device", "cpu", "--size", "64", "96", "--repeats", "2")


SLOW = {"dino", "cascade", "retinanet", "atss-dyhead", "rtmdet"}


@pytest.mark.parametrize(
    "detector",
    [pytest.param(x, marks=pytest.mark.slow if x in SLOW else ()) for x in detectors.CONFIGS],
)
def test_every_way_of_every_task(small, tmp_path, detector):
    """Compiled ops that are not there are a row that says so."""
    path = tmp_path / "x.csv"
    tasks = [f"{detector}:2:train", f"{detector}:1:predict"]
    assert benchmark_detectors.main([*TINY, "--tasks", *tasks, "--csv", str(path)]) == 0
    rows = rows_of(path)
    assert [row["way"] for row in rows] == 2 * list(benchmark_detectors.WAYS)
    for row in rows:
        if row["way"] == "mmdet, compiled ops" and row["reason"]:
            assert "no compiled ops" in row["reason"]
        elif "graphs" in row["way"]:
            assert "need a GPU" in row["reason"]
        else:
            assert not row["reason"]
            assert float(row["ms"]) > 0
            assert ("PyTorch" in row["ops"]) == (row["way"] == "mmdet")
            assert row["dtype"] == "float32"  # on a CPU
        assert row["command"].startswith("python benchmarks/")


def test_what_stock_models_compute_in(monkeypatch):
    """Ops of a compiled mmcv take no bfloat16; what is accelerated calls others."""
    ways = detectors.WAYS
    for compiled, expected in ((False, "bfloat16"), (True, "float16")):
        monkeypatch.setattr(detectors, "has_compiled_ops", lambda found=compiled: found)
        assert ways["mmdet, compiled ops"].dtype("cuda") == expected
        assert ways["SwinBackbone"].dtype("cuda") == expected
        assert ways["SwinBackbone, accelerated"].dtype("cuda") == "bfloat16"
        assert ways["mmdet, compiled ops"].dtype("cpu") == "float32"


def test_the_command_says_what_was_asked_for(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/a/b/benchmark_detectors.py", "--tasks", "dino:2:train"])
    words = "python benchmarks/benchmark_detectors.py --tasks dino:2:train"
    assert results.command_line() == words


def test_memory_of_graphs_is_counted(monkeypatch):
    monkeypatch.setattr(runners, "peak_on_gpu", lambda *_: 10**9)
    held = {"held_bytes": lambda: 3 * 10**9}
    for options, expected in (({}, 10**9), (held, 4 * 10**9)):
        runner = runners.Runner("a way", torch.nn.Identity(), torch.empty(0), int, **options)
        runner.measure_peak()
        assert runner.peak_bytes == expected


@pytest.mark.gpu
def test_memory_of_a_detectors_graphs(small):
    task = benchmark_detectors.sized(benchmark_detectors.task("mask-rcnn:2:train"), [64, 96])
    runner = detectors.detector_runner("SwinBackbone, accelerated, graphs", task, "cuda")
    for _ in range(3):
        runner.step()
    assert runner.held_bytes() > 2**20


def test_stock_runs_without_our_operators():
    """Within the stock way, mmcv samples by PyTorch and boxes are torchvision's; then as before."""
    from benchmarking.detectors import pytorch_ops
    from helpers.points import PointCase, draw
    from mmcv.ops import multi_scale_deform_attn as attention

    from swin_backbone.ops import dispatch

    before = attention.MultiScaleDeformableAttnFunction, dispatch.suppression
    value, shapes, locations, weights = draw(
        PointCase(1, 9, 2, 4, 3, ((4, 5), (2, 3))), torch.float32, "cpu"
    )
    arguments = (value, torch.as_tensor(shapes), locations, weights)
    with pytorch_ops():
        apply = attention.MultiScaleDeformableAttnFunction.apply
        found = apply(arguments[0], arguments[1], None, *arguments[2:], 64)
        assert dispatch.suppression(torch.rand(3, 4)) != "triton"
    assert torch.equal(found, attention.multi_scale_deformable_attn_pytorch(*arguments))
    assert (attention.MultiScaleDeformableAttnFunction, dispatch.suppression) == before


def test_a_run_that_is_cut_off_keeps_its_rows(small, monkeypatch, tmp_path):
    path, prepare = tmp_path / "x.csv", benchmark_detectors.prepare

    def prepare_two(name, *rest):
        if name == "SwinBackbone":
            raise KeyboardInterrupt
        return prepare(name, *rest)

    monkeypatch.setattr(benchmark_detectors, "prepare", prepare_two)
    ways = ["mmdet", "mmdet, accelerated", "SwinBackbone"]
    with pytest.raises(KeyboardInterrupt):
        benchmark_detectors.main(
            [*TINY, "--tasks", "mask-rcnn:1:predict", "--ways", *ways, "--csv", str(path)]
        )
    rows = rows_of(path)
    assert [row["way"] for row in rows] == ways[:2]
    assert all(float(row["ms"]) > 0 for row in rows)


def test_what_comes_too_late_is_left_out(small, tmp_path):
    path = tmp_path / "x.csv"
    tasks = ["mask-rcnn:2:train", "mask2former:1:predict"]
    limit = ["--time-limit", "0", "--csv", str(path)]
    assert benchmark_detectors.main([*TINY, "--tasks", *tasks, *limit]) == 0
    rows = rows_of(path)
    assert len(rows) == 2 * len(benchmark_detectors.WAYS)
    assert all("0 s had passed" in row["reason"] for row in rows)


def test_a_profile_has_operators_and_functions(small, capsys):
    options = ["--profile", "mask2former:1:predict", "--ways", "SwinBackbone"]
    assert benchmark_detectors.main([*TINY, *options]) == 0
    printed = capsys.readouterr().out
    assert "aten::" in printed
    assert "cumulative" in printed


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
