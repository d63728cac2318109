"""The scripts in examples/, each with tiny settings."""

import importlib
import json
import sys

import numpy as np
import pytest
from helpers.paths import ROOT
from helpers.peers import import_from_beside
from PIL import Image

from swin_backbone.model import arguments

EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Swin-S of 8 channels and a block a stage, and scripts that find each other."""
    monkeypatch.setitem(arguments.ARCHITECTURES, "small", (8, (1, 1, 1, 1), (1, 1, 2, 2)))
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    yield
    for path in EXAMPLES.glob("*.py"):
        sys.modules.pop(path.stem, None)


def run(name, *words):
    return importlib.import_module(name).main([str(word) for word in words])


def photographs(folder, count=4, side=72, shade=0):
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = rng.integers(0, 100, (side, side, 3)) + shade
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")


def test_plain_pytorch():
    losses = run("plain_pytorch", "--arch", "small", "--steps", 12, "--side", 64)
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_torchvision_detector():
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    losses = run("torchvision_detector", "--arch", "small", "--steps", 4, "--side", 64)
    assert losses[-1] < losses[0]


def test_accelerate_transformers(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    losses = run("accelerate_transformers", "--steps", 12, "--out", tmp_path / "trained")
    assert losses[-1] < 0.5 * losses[0]
    again = run("accelerate_transformers", "--steps", 1, "--model", tmp_path / "trained")
    assert again[0] < 0.5 * losses[0]


@pytest.mark.slow
def test_lightning_module():
    pytest.importorskip("lightning", reason="needs the extra 'examples'")
    module = run("lightning_module", "--arch", "small", "--steps", 2, "--side", 64)
    assert module.global_step == 2 or module.trainer.global_step == 2


@pytest.mark.slow
def test_probe_features(tmp_path):
    import_from_beside("sklearn")
    photographs(tmp_path / "data" / "dark", 6)
    photographs(tmp_path / "data" / "light", 6, shade=150)
    assert run("probe_features", tmp_path / "data", "--arch", "small", "--side", 64) == 1.0


@pytest.mark.slow
def test_finetune_upernet(tmp_path):
    for split in ("train", "val"):
        photographs(tmp_path / "data" / "images" / split)
        for index in range(4):
            labels = np.zeros((72, 72), np.uint8)
            labels[:, index * 8 :] = 1
            path = tmp_path / "data" / "masks" / split / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels).save(path)
    words = ["--model", "upernet-swin-small", "--steps", 2, "--out", tmp_path / "out"]
    checkpoint = run("finetune_upernet", tmp_path / "data", *words)
    assert checkpoint.is_file()
    assert len(list((tmp_path / "out" / "pictures").glob("*.png"))) == 4


@pytest.mark.slow
def test_detect_on_coco(tmp_path):
    pytest.importorskip("mmdet")
    photographs(tmp_path / "data" / "images", 5)
    size = {"width": 72, "height": 72}
    box = {"bbox": [5, 5, 30, 40], "segmentation": [[5, 5, 35, 5, 35, 45, 5, 45]]}
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", **size} for i in range(5)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{"image_id": i, "category_id": 1, **box} for i in range(5)],
    }
    (tmp_path / "data" / "annotations.json").write_text(json.dumps(content))
    assert run(
        "detect_on_coco", tmp_path / "data", "--steps", 1, "--out", tmp_path / "out"
    ).is_file()


def test_every_example_is_run():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= tested
