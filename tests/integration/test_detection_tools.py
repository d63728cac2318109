"""The command line tools with a detector."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.paths import ROOT
from helpers.small_detector import small_detector, write_data
from helpers.tools import HUNG, call_tool, run_tool
from PIL import Image

import swin_backbone  # noqa: F401  (lets mmdet import without compiled ops)

mmdet = pytest.importorskip("mmdet")

CONFIG = ROOT / "configs/swin_det/mask-rcnn_swin-t-p4-w7_fpn_1xb8-2k_nuclei.py"
SIZES = [(48, 64), (64, 48), (56, 56), (40, 72)]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A small detector with data, as a file."""
    folder = tmp_path_factory.mktemp("detector")
    cfg = small_detector(CONFIG)
    for loader, sizes in (
        (cfg.train_dataloader, SIZES),
        (cfg.val_dataloader, SIZES[:3]),
        (cfg.test_dataloader, SIZES[:3]),
    ):
        loader.dataset.data_root = str(folder / "data")
        write_data(loader.dataset, sizes)
    annotations = str(folder / "data" / cfg.val_dataloader.dataset.ann_file)
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = annotations
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.default_hooks.checkpoint.interval = 1
    cfg.default_hooks.logger.interval = 1
    cfg.dump(folder / "small_detector.py")
    return folder / "small_detector.py"


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """Work dir of a run of two steps."""
    work_dir = tmp_path_factory.mktemp("run")
    call_tool("train.py", config, "--work-dir", work_dir)
    return work_dir


def test_train_evaluates_and_resumes(config, run, tmp_path):
    assert "coco/segm_mAP" in max(run.rglob("scalars.json")).read_text()
    call_tool(
        "train.py", config, "--work-dir", tmp_path, "--resume", run / "iter_2.pth",
        "--cfg-options", "train_cfg.max_iters=3",
    )  # fmt: skip
    assert (tmp_path / "iter_3.pth").is_file()


def test_test_writes_detections_and_pictures(config, run, tmp_path):
    call_tool(
        "test.py", config, run / "iter_2.pth", "--work-dir", tmp_path, "--out", tmp_path / "found",
        "--show-dir", tmp_path / "shown",
    )  # fmt: skip
    found = json.loads((tmp_path / "found" / "detections.segm.json").read_text())
    assert {entry["image_id"] for entry in found} == {0, 1, 2}
    assert len(list((tmp_path / "shown").glob("*.jpg"))) == 3


def test_predict_paints_masks_and_boxes(config, run, tmp_path):
    images = config.parent / "data" / "img_dir" / "val"
    call_tool("predict.py", config, run / "iter_2.pth", images, "--out", tmp_path, "--score", 0)
    pictures = sorted(tmp_path.iterdir())
    assert [path.stem for path in pictures] == [path.stem for path in sorted(images.iterdir())]
    for picture, image in zip(pictures, sorted(images.iterdir()), strict=True):
        painted, original = (np.asarray(Image.open(path)).astype(int) for path in (picture, image))
        assert painted.shape == original.shape
        assert (abs(painted - original) > 20).any()


def test_predict_does_not_cut_images_for_a_detector(config, run, tmp_path):
    done = call_tool(
        "predict.py", config, run / "iter_2.pth", config.parent, "--out", tmp_path,
        "--slide", "always", check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "--slide always is for segmentors" in done.stderr


@pytest.mark.slow
def test_mmdets_own_test_runs_without_compiled_ops(config, run, tmp_path):
    """As docs/detection.md says; by itself, mmdet's command asks for the ops when it starts."""
    command = next(
        block for block in (ROOT / "docs/detection.md").read_text().split("```") if "runpy" in block
    )
    script = Path(mmdet.__file__).parent / ".mim" / "tools" / "test.py"
    words = {"MMDET/tools/test.py": script, "CONFIG": config, "CHECKPOINT": run / "iter_2.pth"}
    for word, meaning in words.items():
        command = command.replace(word, str(meaning))
    command = command.removeprefix("bash\n").replace("python ", f"{sys.executable} ", 1)
    done = subprocess.run(
        ["bash", "-ec", f"{command.strip()} --work-dir {tmp_path}"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=HUNG,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "coco/bbox_mAP" in done.stdout + done.stderr


@pytest.mark.slow
def test_two_processes_train_a_detector(config, tmp_path):
    """Each draws images of sizes of its own."""
    run_tool("dist_train.sh", config, 2, "--work-dir", tmp_path, PORT="29618")
    assert (tmp_path / "iter_2.pth").is_file()
