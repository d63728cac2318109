"""Data that are not there or not what the config says: each gets an error that names it."""

import shutil

import numpy as np
import pytest
import torch
from helpers.scenes import write_scenes
from helpers.tiny_run import dataset, tiny_config
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from swin_backbone.openmmlab.data_folders import check_data_folders
from swin_backbone.openmmlab.label_check import LabelCheckHook, find_wrong_labels


@pytest.fixture
def data(tmp_path):
    """A data set to spoil."""
    return write_scenes(tmp_path / "data", num_train=4, num_val=2)


def train(data, tmp_path, **options):
    config = tiny_config(data, tmp_path / "run", steps=2, **options)
    Runner.from_cfg(config).train()


def check(*datasets):
    loaders = ("train_dataloader", "val_dataloader")
    config = {name: {"dataset": part} for name, part in zip(loaders, datasets, strict=False)}
    check_data_folders(Config({"default_scope": "mmseg", **config}))


def test_sound_data_pass(data):
    check(dataset(data, "train", []), dataset(data, "val", []))


def remove(folder):
    shutil.rmtree(folder)


def empty(folder):
    for file in folder.iterdir():
        file.unlink()


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("kind", ["img_dir", "ann_dir"])
@pytest.mark.parametrize(("spoil", "told"), [(remove, "does not exist"), (empty, "holds no")])
def test_a_missing_or_empty_folder(data, split, kind, spoil, told):
    folder = data / kind / split
    spoil(folder)
    with pytest.raises(FileNotFoundError) as raised:
        check(dataset(data, "train", []), dataset(data, "val", []))
    message = str(raised.value)
    assert message.startswith(f"{split}_dataloader: ")
    assert f"{str(folder)!r} {told}" in message
    assert f"data_root={str(data)!r}" in message
    assert ("seg_map_path" in message) == (kind == "ann_dir")


def test_a_relative_folder_is_named_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "no" / "img_dir")):
        check(dataset("no", "train", []))


def test_files_of_another_suffix(data):
    with pytest.raises(FileNotFoundError, match=r"img_dir/train' holds no '\*\.tif' file"):
        check(dataset(data, "train", [], img_suffix=".tif"))


def test_a_missing_list_of_images(data):
    with pytest.raises(FileNotFoundError, match=r"splits/train\.txt' does not exist"):
        check(dataset(data, "train", [], ann_file="splits/train.txt"))


@pytest.mark.parametrize("kind", ["RepeatDataset", "ConcatDataset"])
def test_wrappers_are_looked_into(data, kind):
    good, bad = dataset(data, "train", []), dataset(data, "no_such_split", [])
    wrapped = {
        "RepeatDataset": {"type": "RepeatDataset", "times": 2, "dataset": bad},
        "ConcatDataset": {"type": "ConcatDataset", "datasets": [good, bad]},
    }
    with pytest.raises(FileNotFoundError, match="img_dir/no_such_split"):
        check(wrapped[kind])


def test_other_storage_is_left_alone(data):
    remote = {"img_path": "s3://bucket/images", "seg_map_path": "s3://bucket/labels"}
    check({**dataset(data, "train", []), "data_root": None, "data_prefix": remote})


@pytest.mark.parametrize("kind", ["img_dir", "ann_dir"])
def test_training_without_a_folder_names_it(data, tmp_path, kind):
    """Even unchecked, as mmengine's Runner meets it."""
    shutil.rmtree(data / kind / "train")
    with pytest.raises(FileNotFoundError, match=f"{kind}/train"):
        train(data, tmp_path)


def spoil_labels(data, split, value):
    path = data / "ann_dir" / split / "scene_1.png"
    labels = np.array(Image.open(path))
    labels[: len(labels) // 2] = value
    Image.fromarray(labels).save(path)
    return path


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("value", [3, 254])
def test_training_on_a_label_that_is_no_class(data, tmp_path, value, num_workers):
    path = spoil_labels(data, "train", value)
    with pytest.raises(ValueError, match="labels of") as raised:
        train(data, tmp_path, num_workers=num_workers)
    assert str(raised.value) == (
        f"labels of {str(path)!r} must lie in [0, num_classes=3) or be ignore_index=255, "
        f"got [{value}]"
    )


def test_validating_on_a_label_that_is_no_class(data, tmp_path):
    path = spoil_labels(data, "val", 9)
    with pytest.raises(ValueError, match="got \\[9\\]") as raised:
        Runner.from_cfg(tiny_config(data, tmp_path / "run")).val()
    assert str(path) in str(raised.value)


def test_ignored_pixels_pass(data, tmp_path):
    spoil_labels(data, "train", 255)
    train(data, tmp_path)


@pytest.mark.parametrize(
    ("labels", "ignore_index", "wrong"),
    [
        ([0, 1, 2], 255, []),
        ([0, 255, 2], 255, []),
        ([0, 255, 2], None, [255]),
        ([5, 3, 3, -1, 0], 255, [-1, 3, 5]),
        ([-1, 0, 2], -1, []),
        ([0, 7], 7, []),
    ],
)
def test_wrong_labels(labels, ignore_index, wrong):
    assert find_wrong_labels(torch.tensor([labels]), 3, ignore_index) == wrong


class Segmentor(torch.nn.Module):
    def __init__(self, *heads):
        super().__init__()
        self.decode_head = heads[0] if len(heads) == 1 else torch.nn.ModuleList(heads)


class Head(torch.nn.Module):
    ignore_index = 255

    def __init__(self, num_classes, out_channels):
        super().__init__()
        self.num_classes, self.out_channels = num_classes, out_channels


class Run:
    """As much of a runner as the hook looks at."""

    def __init__(self, model):
        self.model = model


def batch_with(label):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo={"img_path": "road.jpg"})
    sample.gt_sem_seg = PixelData(data=torch.full((1, 2, 2), label))
    return {"data_samples": [sample]}


@pytest.mark.parametrize(
    ("model", "limit"),
    [
        (Segmentor(Head(19, 19)), 19),
        (Segmentor(Head(2, 1)), 2),
        (Segmentor(Head(1, 1)), 2),  # one output tells two classes apart
        (Segmentor(Head(5, 5), Head(7, 7)), 7),  # a cascade
    ],
)
def test_number_of_classes_of(model, limit):
    hook = LabelCheckHook()
    hook.before_train_iter(Run(model), 0, batch_with(limit - 1))
    with pytest.raises(ValueError, match=rf"'road\.jpg'.*num_classes={limit}\).*got \[{limit}\]"):
        hook.before_train_iter(Run(model), 0, batch_with(limit))


def test_a_model_without_classes():
    with pytest.raises(TypeError, match="needs a segmentor with a decode_head, got Linear"):
        LabelCheckHook().before_train_iter(Run(torch.nn.Linear(1, 1)), 0, batch_with(0))
