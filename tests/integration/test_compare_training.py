"""Variants of a config trained side by side, and the picture and table of them."""

import argparse
import csv
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from helpers.paths import ROOT
from mmengine.config import Config
from PIL import Image

CONFIG = next((ROOT / "configs" / "demo").glob("*.py"))
CAMVID = next((ROOT / "configs" / "swin").glob("*camvid*.py"))
specification = importlib.util.spec_from_file_location(
    "compare_training", ROOT / "benchmarks" / "compare_training.py"
)
compare_training = importlib.util.module_from_spec(specification)
specification.loader.exec_module(compare_training)
import training_curves  # noqa: E402

from swin_backbone.cli import launching  # noqa: E402
from swin_backbone.ops import dispatch  # noqa: E402


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


def arguments_for(config, options=(), **changes):
    return argparse.Namespace(
        config=str(config), cfg_options=changes, options=list(options), work_dir=Path("out")
    )


def variant_config(arguments, name, seed=0):
    changes = compare_training.VARIANTS[name]
    return compare_training.make_config(arguments, name, changes, seed)


@pytest.mark.parametrize("name", compare_training.VARIANTS)
def test_both_backbones_get_the_same_architecture(name):
    arguments = arguments_for(
        CONFIG,
        **{
            "model.backbone.arch": "tiny",
            "model.backbone.backend": "sdpa",
        },
    )
    cfg = variant_config(arguments, name, seed=3)
    backbone = cfg.model.backbone
    if name != "SwinTransformer":
        assert (backbone["arch"], backbone["backend"]) == ("tiny", "sdpa")
    else:
        assert backbone["type"] == "mmseg.SwinTransformer"
        assert not {"arch", "backend"} & set(backbone)
        assert (backbone["embed_dims"], backbone["depths"]) == (96, (2, 2, 6, 2))
    assert cfg.randomness == {"seed": 3}
    assert cfg.work_dir == str(Path("out") / f"{name}-seed3")


@pytest.mark.parametrize("constructor", [None, "SwinLayerDecayOptimWrapperConstructor"])
def test_accelerated_is_what_train_makes_of_fast(constructor):
    changes = {"optim_wrapper.constructor": constructor} if constructor else {}
    arguments = arguments_for(CAMVID, ["amp_bf16"], **changes)
    arguments.launcher, arguments.local_rank = "none", 0
    ours = variant_config(arguments, "accelerated").to_dict()
    arguments.options = ["fast"]
    trained = launching.load_config(arguments, loaders=()).to_dict()
    own = {"randomness", "work_dir", "visualizer", "launcher", "log_processor"}
    assert {k: v for k, v in ours.items() if k not in own} == {
        k: v for k, v in trained.items() if k not in own
    }
    assert ours["default_hooks"]["accelerate"] == {"type": "AccelerateHook"}
    assert ours["log_processor"]["window_size"] == ours["default_hooks"]["logger"]["interval"]
    stock = variant_config(arguments_for(CAMVID, ["amp_bf16"], **changes), "SwinTransformer")
    assert stock.optim_wrapper.type == ours["optim_wrapper"]["type"] == "AmpOptimWrapper"
    assert "accelerate" not in stock.default_hooks
    assert "fused" not in stock.optim_wrapper.optimizer
    assert stock.optim_wrapper.get("constructor") == constructor


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
        monkeypatch, "train", config, "--work-dir", out, "--channels-last", "--same-start",
        "--seed", 3, *variants,
        "--cfg-options", "optim_wrapper.constructor=MergedGroupsOptimWrapperConstructor",
    )  # fmt: skip
    sdpa, reference = sorted(
        training_curves.find_runs(out), key=lambda found: found["variant"], reverse=True
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


def test_runs_of_other_processes_start_alike_and_stock_ones_take_no_op_of_ours(
    monkeypatch, scenes, tmp_path
):
    """Whichever variant is trained; ops are PyTorch's in the stock one alone."""
    from helpers.tiny_run import tiny_config
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS

    starts, ways = {}, {}

    @HOOKS.register_module(name="Start", force=True)
    class Start(Hook):
        priority = "LOWEST"

        def before_train(self, runner):
            key = name, seed
            weights = runner.model.state_dict()
            starts[key] = weights["backbone.patch_embed.projection.weight"].clone()
            ways[key] = dispatch.suppression(torch.zeros(1, 4))

    config = tmp_path / "config.py"
    tiny = tiny_config(scenes, tmp_path, num_workers=0, steps=1)
    tiny.train_cfg.val_interval = 10
    tiny.custom_hooks = [{"type": "Start"}]
    Config(tiny.to_dict()).dump(config)
    monkeypatch.setattr(compare_training, "OPTIONS_OF", {"accelerated": ()})  # on any device
    for name, seed in (("SwinTransformer", 5), ("accelerated", 5), ("accelerated", 6)):
        run(
            monkeypatch, "train", config, "--work-dir", tmp_path / "out", "--variant", name,
            "--seed", seed, "--start-of", "SwinTransformer", "--pytorch-ops",
        )  # fmt: skip
    stock, same, other = starts.values()
    assert torch.equal(stock, same)
    assert not torch.equal(stock, other)
    ours = dispatch.suppression(torch.zeros(1, 4))
    assert list(ways.values()) == ["torchvision", ours, ours]


class FakeRunner:
    def __init__(self, model):
        self.model = model


def stage(kind, width=8):
    from mmengine.registry import MODELS, DefaultScope

    settings = {"embed_dims": width, "depths": (1, 2), "num_heads": (1, 2), "window_size": 4}
    settings |= {"strides": (4, 2), "out_indices": (0, 1)}
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = torch.nn.Module()
        model.backbone = MODELS.build({"type": kind, **settings})
    return model.eval()


def test_the_same_start_is_the_first_variants():
    start = compare_training.SameStartHook("SwinTransformer")
    stock, ours, again = (
        stage("mmseg.SwinTransformer"),
        stage("SwinBackbone"),
        stage("SwinBackbone"),
    )
    start.before_train(FakeRunner(stock))
    image = torch.randn(1, 3, 32, 40)
    expected = [m.detach().clone() for m in stock.backbone(image)]
    with torch.no_grad():
        stock.backbone.patch_embed.projection.weight.zero_()  # training goes on; the start stays
    for model in (ours, again):
        start.before_train(FakeRunner(model))
        torch.testing.assert_close(list(model.backbone(image)), expected, rtol=1e-4, atol=1e-5)


def test_a_start_that_does_not_fit_is_an_error_that_names_both():
    start = compare_training.SameStartHook("wide")
    start.before_train(FakeRunner(stage("mmseg.SwinTransformer", width=16)))
    start.variant = "narrow"
    with pytest.raises(ValueError, match="same start: narrow does not take the weights of wide"):
        start.before_train(FakeRunner(stage("mmseg.SwinTransformer")))


def write_run(folder, variant, seed, each, scores, start=0.0):
    """Log of 120 iterations, the first ten taking ``start`` seconds more, scores at 60 and 120."""
    folder = folder / f"{variant}-seed{seed}" / "20260101_000000" / "vis_data"
    folder.mkdir(parents=True)
    about = {"variant": variant, "seed": seed, "config": "configs/c.py", "run_seconds": 99.0}
    about |= {"date": "2026-01-01 10:00", "device": "a card, fast", "torch": "2"}
    (folder.parents[1] / "run.json").write_text(json.dumps(about))
    records = [
        {"loss": 3 - i / 60, "time": each + (start / 10 if i == 10 else 0), "iter": i, "step": i}
        for i in range(10, 121, 10)
    ]
    records += [{"mIoU": s, "step": i} for i, s in zip((60, 120), scores, strict=True)]
    (folder / "scalars.json").write_text("\n".join(map(json.dumps, records)))


def test_seeds_are_averaged_and_the_time_to_the_same_score_is_told(monkeypatch, tmp_path, capsys):
    for seed in (0, 1):
        write_run(tmp_path, "slow", seed, 0.5, (20.0, 40.0))
        write_run(tmp_path, "fast", seed, 0.1, (10.0, 50.0 - 10 * seed), start=30.0)
    picture, table = tmp_path / "curves.png", tmp_path / "curves.csv"
    run(monkeypatch, "plot", tmp_path, "--to", picture, "--over", "seconds", "--csv", table)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| c ")]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    single = {(row[1], row[2]): row[3:] for row in cells[:4]}
    assert single["slow", "0"][1:6] == ["40.00", "40.00", "2.00", "0.0", "99"]
    assert single["fast", "1"][1:6] == ["40.00", "40.00", "10.00", "30.0", "99"]
    means = {row[1]: row[2:] for row in cells[4:]}
    # 40 is reached by all: slow at the end, 60 s; fast after 30 s of compiling and 0.1 s a step, by
    # one seed at 120, by the other between 10 at 60 and 50 at 120, at 105.
    assert means["slow"] == ["2", "mIoU", "40.00", "40.00", "60.0", "60.0"]
    assert means["fast"] == ["2", "mIoU", "45.00", "40.00", "41.2", "11.2"]
    with table.open(newline="") as file:
        points = list(csv.DictReader(file))
    assert len(points) == 4 * (12 + 2)
    last = [p for p in points if (p["variant"], p["seed"], p["quantity"]) == ("fast", "0", "mIoU")][
        -1
    ]
    assert (last["iteration"], last["seconds"], last["value"]) == ("120", "42.000", "50")
    assert (last["device"], last["config"]) == ("a card, fast", "configs/c.py")
    assert Image.open(picture).width > 1000


def test_mean_curves_are_where_all_seeds_have_values():
    curves = [([10, 20, 30], [1.0, 2.0, 3.0], [5.0, 6.0, 7.0]), ([10, 20], [3.0, 6.0], [7.0, 8.0])]
    assert training_curves.mean_curve(curves) == ([2.0, 4.0], [6.0, 7.0])


def test_a_score_that_is_not_reached_has_no_time():
    run = {"iterations": [10, 20], "seconds": [10.0, 20.0], "score_iterations": [10, 20]}
    run["scores"] = {"mIoU": [30.0, 40.0]}
    found = [training_curves.seconds_to(run, "mIoU", score) for score in (20, 30, 35, 40, 41)]
    assert found == [10.0, 10.0, 15.0, 20.0, None]


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
    cfg = variant_config(arguments_for(config), "SwinTransformer")
    assert cfg.model.backbone["type"] == "mmdet.SwinTransformer"


def test_unfinished_runs_are_found(tmp_path):
    folder = tmp_path / "name-seed1"
    (folder / "20260101_000000" / "vis_data").mkdir(parents=True)
    description = {"variant": "name", "seed": 1, "config": "c.py"}
    (folder / "run.json").write_text(json.dumps(description))
    assert training_curves.find_runs(tmp_path) == []
    records = [{"loss": 2.0, "time": 9.0, "iter": 50}, {"loss": 1.0, "time": 0.5, "iter": 60}]
    log = folder / "20260101_000000" / "vis_data" / "scalars.json"
    log.write_text("\n".join(json.dumps({**record, "step": 0}) for record in records))
    (found,) = training_curves.find_runs(tmp_path)
    assert found["seconds_per_iteration"] == 0.5  # the first steps do not count
    assert (found["loss"], found["scores"]) == ([2.0, 1.0], {})


def test_seconds_of_training_are_added_up():
    run = {"iterations": [10, 20, 40], "seconds": training_curves.elapsed([10, 20, 40], [1, 2, 3])}
    assert run["seconds"] == [10, 30, 90]
    assert training_curves.positions(run, [5, 20, 30], "seconds") == [5, 30, 60]
    assert training_curves.positions(run, [5, 20], "iterations") == [5, 20]
    assert training_curves.positions(run, [5, 20], "warm-seconds") == [5, 30]  # none is warm
    run = {"iterations": [10, 50, 60], "seconds": [80.0, 120.0, 130.0]}
    run |= {"seconds_per_iteration": 1.0, "start_seconds": 70.0}
    assert training_curves.positions(run, [10, 30, 60], "warm-seconds") == [10, 30, 60]


def test_kept_curves_are_read_again(tmp_path):
    """But for what is rounded away; memory and whole seconds are not kept."""
    run = {
        "date": "2026-01-01 00:00", "device": "a card", "torch": "2.0", "config": "c.py",
        "variant": "v", "seed": "3", "loss": [3.0, 2.0, 1.0, 0.5], "score_iterations": [60, 90],
        "scores": {"mIoU": [10.0, 20.5]},
        **training_curves.speed([30, 50, 70, 90], [9.0, 11.0, 13.0, 15.0], [0.1, 0.1]),
    }  # fmt: skip
    training_curves.write_csv([run], tmp_path / "curves.csv")
    (read,) = training_curves.find_runs(tmp_path / "curves.csv")
    for name in ("seconds_per_iteration", "start_seconds"):
        assert read.pop(name) == pytest.approx(run.pop(name), abs=1e-3)
    assert read == run


def test_a_csv_of_something_else(tmp_path):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"other\.csv is no CSV file of training curves"):
        training_curves.find_runs(tmp_path / "other.csv")
