"""Variants of a config trained side by side, and the picture and table of them."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT
from mmengine.config import Config
from PIL import Image

CONFIG = next((ROOT / "configs" / "demo").glob("*.py"))
specification = importlib.util.spec_from_file_location(
    "compare_training", ROOT / "benchmarks" / "compare_training.py"
)
compare_training = importlib.util.module_from_spec(specification)
specification.loader.exec_module(compare_training)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["compare_training.py", *map(str, arguments)])
    compare_training.main()


def variant_parser():
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument(
        "--variant", dest="variants", nargs="+", action=compare_training.VariantAction
    )
    return parser


def test_variants_are_names_and_changes():
    words = ["--variant", "fast", "a.b=x", "a.c=[1,2]", "--variant", "SwinTransformer", "d=1"]
    assert variant_parser().parse_args(words).variants == {
        "fast": {"a.b": "x", "a.c": [1, 2]},
        "SwinTransformer": {"model.backbone.type": "{scope}.SwinTransformer", "d": 1},
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [(["fast"], "'fast' is none of SwinBackbone"), (["a=1"], "NAME"), (["a", "b"], "NAME")],
)
def test_variants_that_say_nothing_are_refused(words, message):
    with pytest.raises(argparse.ArgumentError, match=message):
        variant_parser().parse_args(["--variant", *words])


@pytest.mark.parametrize("name", compare_training.VARIANTS)
def test_both_backbones_get_the_same_architecture(name):
    arguments = argparse.Namespace(
        config=str(CONFIG),
        cfg_options={
            "model.backbone.arch": "tiny",
            "model.backbone.backend": "sdpa",
            "visualizer": {"type": "SegLocalVisualizer"},
        },
        seed=3,
        work_dir=Path("out"),
    )
    cfg = compare_training.make_config(arguments, name, compare_training.VARIANTS[name])
    backbone = cfg.model.backbone
    if name != "SwinTransformer":
        assert (backbone["arch"], backbone["backend"]) == ("tiny", "sdpa")
    else:
        assert backbone["type"] == "mmseg.SwinTransformer"
        assert not {"arch", "backend"} & set(backbone)
        assert (backbone["embed_dims"], backbone["depths"]) == (96, (2, 2, 6, 2))
    assert cfg.randomness == {"seed": 3}
    assert cfg.work_dir == str(Path("out") / f"{name}-seed3")


def test_backends_train_alike_and_are_drawn(monkeypatch, scenes, tmp_path, capsys):
    from helpers.tiny_run import tiny_config

    config = tmp_path / "config.py"
    tiny = tiny_config(scenes, tmp_path, num_workers=0, steps=4)
    tiny.visualizer = {"type": "SegLocalVisualizer", "vis_backends": [{"type": "LocalVisBackend"}]}
    tiny.default_hooks.logger = {"type": "LoggerHook", "interval": 2, "log_metric_by_epoch": False}
    Config(tiny.to_dict()).dump(config)
    variants = [
        word
        for backend in ("sdpa", "reference")
        for word in ("--variant", backend, f"model.backbone.backend={backend}")
    ]
    out = tmp_path / "out"
    run(
        monkeypatch, "train", config, "--work-dir", out, "--channels-last", *variants,
        "--cfg-options", "optim_wrapper.constructor=MergedGroupsOptimWrapperConstructor",
    )  # fmt: skip
    sdpa, reference = sorted(
        compare_training.find_runs(out), key=lambda found: found["variant"], reverse=True
    )
    assert sdpa["iterations"] == reference["iterations"] == [2, 4]
    assert sdpa["loss"] == pytest.approx(reference["loss"], rel=1e-4)  # fp32, four steps
    assert len(sdpa["scores"]["mIoU"]) == 1
    run(monkeypatch, "plot", out, "--to", tmp_path / "curves.png")
    assert 500 < Image.open(tmp_path / "curves.png").width < 1000  # one score is no curve
    run(monkeypatch, "plot", out, "--to", tmp_path / "seconds.png", "--over", "seconds")
    assert 500 < Image.open(tmp_path / "seconds.png").width < 1000
    table = capsys.readouterr().out
    assert "| config | sdpa" in table
    assert "| config | reference" in table


def test_a_detectors_scores_are_percent_of_boxes_and_masks(monkeypatch, tmp_path, capsys):
    for variant, offset in (("ours", 0.0), ("theirs", 0.1)):
        folder = tmp_path / f"{variant}-seed0" / "20260101_000000" / "vis_data"
        folder.mkdir(parents=True)
        description = {"variant": variant, "seed": 0, "config": "c.py"}
        (folder.parents[1] / "run.json").write_text(json.dumps(description))
        records = [{"loss": 2.0, "time": 0.5, "iter": 60, "step": 60}]
        records += [
            {"coco/bbox_mAP": 0.254 + offset, "coco/segm_mAP": 0.3 - step / 1e3, "step": step}
            for step in (60, 120)
        ]
        (folder / "scalars.json").write_text("\n".join(map(json.dumps, records)))
    run(monkeypatch, "plot", tmp_path, "--to", tmp_path / "curves.png")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| c ")]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    assert cells[0][4:8] == ["25.40", "25.40", "18.00", "24.00"]
    assert cells[1][4] == "35.40"
    assert Image.open(tmp_path / "curves.png").width > 1500  # losses, box AP, mask AP


def test_a_detectors_peer_is_mmdets():
    config = ROOT / "configs/swin_det/mask-rcnn_swin-t-p4-w7_fpn_1xb8-2k_nuclei.py"
    arguments = argparse.Namespace(config=config, cfg_options={}, seed=0, work_dir=Path("out"))
    changes = compare_training.VARIANTS["SwinTransformer"]
    cfg = compare_training.make_config(arguments, "SwinTransformer", changes)
    assert cfg.model.backbone["type"] == "mmdet.SwinTransformer"


def test_unfinished_runs_are_found(tmp_path):
    folder = tmp_path / "name-seed1"
    (folder / "20260101_000000" / "vis_data").mkdir(parents=True)
    description = {"variant": "name", "seed": 1, "config": "c.py"}
    (folder / "run.json").write_text(json.dumps(description))
    assert compare_training.find_runs(tmp_path) == []
    records = [{"loss": 2.0, "time": 9.0, "iter": 50}, {"loss": 1.0, "time": 0.5, "iter": 60}]
    log = folder / "20260101_000000" / "vis_data" / "scalars.json"
    log.write_text("\n".join(json.dumps({**record, "step": 0}) for record in records))
    (found,) = compare_training.find_runs(tmp_path)
    assert found["seconds_per_iteration"] == 0.5  # the first steps do not count
    assert (found["loss"], found["scores"]) == ([2.0, 1.0], {})


def test_seconds_of_training_are_added_up():
    run = {"iterations": [10, 20, 40], "seconds": compare_training.elapsed([10, 20, 40], [1, 2, 3])}
    assert run["seconds"] == [10, 30, 90]
    assert compare_training.positions(run, [5, 20, 30], "seconds") == [5, 30, 60]
    assert compare_training.positions(run, [5, 20], "iterations") == [5, 20]
