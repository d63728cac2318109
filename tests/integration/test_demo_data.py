"""The generated data set: whole or not there, the same for the same seed, and not too easy."""

import json

import numpy as np
import pytest
from helpers.paths import ROOT
from mmengine.config import Config
from PIL import Image

from swin_backbone.cli import make_demo_data

NUM_CLASSES = len(make_demo_data.CLASSES)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A small set; not to be changed."""
    out = tmp_path_factory.mktemp("demo") / "data"
    assert make_demo_data.make_data_set(out, train=40, val=20, seed=0)
    return out


def read(root, split):
    """Image (H, W, 3) and label (H, W) by name."""
    pairs = {}
    for path in sorted((root / "img_dir" / split).iterdir()):
        label = root / "ann_dir" / split / f"{path.stem}.png"
        pairs[path.stem] = np.array(Image.open(path)), np.array(Image.open(label))
    return pairs


def mean_iou(predicted, labels):
    ious = []
    for kind in range(NUM_CLASSES):
        a, b = predicted == kind, labels == kind
        ious.append((a & b).sum() / (a | b).sum())
    return np.mean(ious)


@pytest.mark.parametrize(("split", "count"), [("train", 40), ("val", 20)])
def test_a_label_for_every_image(data, split, count):
    pairs = read(data, split)
    assert len(pairs) == count == len(list((data / "ann_dir" / split).iterdir()))
    for image, label in pairs.values():
        assert image.shape == (*label.shape, 3)
        assert label.max() < NUM_CLASSES


def test_many_sizes_and_all_classes(data):
    pairs = read(data, "val")
    assert len({label.shape for _, label in pairs.values()}) >= 18
    assert set(np.concatenate([np.unique(y) for _, y in pairs.values()])) == set(range(NUM_CLASSES))


def test_labels_are_shown_in_the_class_colours(data):
    path = data / "ann_dir" / "val" / "0000.png"
    shown, label = np.array(Image.open(path).convert("RGB")), np.array(Image.open(path))
    assert np.array_equal(shown, np.array(list(make_demo_data.CLASSES.values()))[label])


def test_the_config_has_the_same_classes():
    config = Config.fromfile(ROOT / "configs" / "_base_" / "datasets" / "demo.py")
    assert tuple(config.metainfo.classes) == tuple(make_demo_data.CLASSES)
    assert [tuple(c) for c in config.metainfo.palette] == list(make_demo_data.CLASSES.values())


def test_the_majority_class_scores_little(data):
    labels = np.concatenate([label.ravel() for _, label in read(data, "val").values()])
    majority = np.bincount(labels).argmax()
    assert mean_iou(np.full_like(labels, majority), labels) < 0.1


def test_colour_alone_does_not_tell(data):
    """The best class for each of 4096 colours, learnt from the training split."""

    def flat(split):
        images, labels = zip(*read(data, split).values(), strict=True)
        bins = np.concatenate([(image // 16).reshape(-1, 3) for image in images]).astype(int)
        return bins @ [256, 16, 1], np.concatenate([label.ravel() for label in labels])

    bins, labels = flat("train")
    votes = np.zeros((4096, NUM_CLASSES))
    np.add.at(votes, (bins, labels), 1)
    bins, labels = flat("val")
    assert mean_iou(votes.argmax(axis=1)[bins], labels) < 0.55


def test_the_same_seed_makes_the_same_files(tmp_path):
    files = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_demo_data.make_data_set(tmp_path / name, train=2, val=1, seed=seed)
        root = tmp_path / name
        files.append({p.relative_to(root): p.read_bytes() for p in root.rglob("*.*g")})
    assert len(files[0]) == 6
    assert files[0] == files[1]
    assert all(files[2][name] != content for name, content in files[0].items())


def test_splits_and_images_differ(data):
    pairs = [*read(data, "train").values(), *read(data, "val").values()]
    images = [image.tobytes() for image, _ in pairs]
    assert len(set(images)) == len(images)


def test_a_broken_run_leaves_no_data_set(tmp_path, monkeypatch):
    out = tmp_path / "data"

    def make_three(rng, made=[]):  # noqa: B006
        made.append(None)
        if len(made) > 3:
            raise KeyboardInterrupt
        return np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)

    with monkeypatch.context() as patch:
        patch.setattr(make_demo_data, "make_scene", make_three)
        with pytest.raises(KeyboardInterrupt):
            make_demo_data.make_data_set(out, train=4, val=1)
    assert not out.exists()
    make_demo_data.make_data_set(out, train=4, val=1)
    assert len(read(out, "train")) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_made_only_once(tmp_path):
    out = tmp_path / "data"
    assert make_demo_data.make_data_set(out, train=2, val=1)
    before = (out / make_demo_data.INFO).stat().st_mtime_ns
    assert not make_demo_data.make_data_set(out, train=2, val=1)
    assert (out / make_demo_data.INFO).stat().st_mtime_ns == before


@pytest.mark.parametrize("content", [None, {"train": 2, "val": 1, "seed": 1}])
def test_another_folder_is_not_overwritten(tmp_path, content):
    (tmp_path / "thesis.txt").write_text("years of work")
    if content is not None:
        (tmp_path / make_demo_data.INFO).write_text(json.dumps(content))
    with pytest.raises(FileExistsError, match=f"{tmp_path.name}' exists and was not made with"):
        make_demo_data.make_data_set(tmp_path, train=2, val=1)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--train", "0"], "--train: must be an integer >= 1, got '0'"),
        (["--val", "-1"], "--val: must be an integer >= 1, got '-1'"),
        (["--seed", "-2"], "--seed: must be an integer >= 0"),
    ],
)
def test_arguments_out_of_range(tmp_path, capsys, arguments, told):
    with pytest.raises(SystemExit) as ended:
        make_demo_data.main([str(tmp_path / "data"), *arguments])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
