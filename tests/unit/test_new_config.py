"""``swin-backbone new``: what it finds in folders, the configs that it writes, and its refusals."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import TRANSFORMS, DefaultScope
from PIL import Image

from swin_backbone.cli import main
from swin_backbone.own_data.machine import Machine, crop_side

#: In the place of the backbone and the heads' widths, for training that takes no time.
SMALL = """
_backbone = dict(_delete_=True, type="SwinBackbone", embed_dims=8, depths=(1, 1, 1, 1),
                 num_heads=(1, 1, 2, 2), window_size=4)
"""
SMALL_UPERNET = (
    SMALL
    + """
model.update(
    backbone=_backbone,
    decode_head=dict(model["decode_head"], in_channels=[8, 16, 32, 64], channels=8),
    auxiliary_head=dict(model["auxiliary_head"], in_channels=32, channels=8),
)
"""
)
SMALL_DETECTOR = (
    SMALL
    + """
model.update(backbone=_backbone, neck=dict(in_channels=[8, 16, 32, 64]))
"""
)
ONCE = [
    "train_cfg.max_iters=1", "train_cfg.val_interval=9", "default_hooks.checkpoint.interval=1",
    "train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False",
    "val_dataloader.num_workers=0", "val_dataloader.persistent_workers=False",
    "test_dataloader.num_workers=0", "test_dataloader.persistent_workers=False",
    "val_dataloader.dataset.indices=2",  # the last step is followed by validation
]  # fmt: skip
COLOURS = np.array([(0, 0, 0), (10, 200, 255), (128, 64, 0)], np.uint8)
#: How label maps write the classes 0, 1 and 2 (of masks, 0 and 1).
KINDS = {
    "indices": lambda truth: truth,
    "palette": lambda truth: truth,
    "gaps": lambda truth: np.array([3, 7, 40], np.uint8)[truth],
    "grey in three channels": lambda truth: np.repeat(truth[..., None], 3, axis=2),
    "colours": lambda truth: COLOURS[truth],
    "colours and alpha": lambda truth: np.dstack([COLOURS[truth], np.full_like(truth, 255)]),
    "mask": lambda truth: np.where(truth > 0, 255, 0).astype(np.uint8),
    "mask in colours": lambda truth: np.where(truth[..., None] > 0, 255, [0, 0, 0]).astype("uint8"),
}
#: Folders of images and of label maps for each split, and what follows an image's name.
LAYOUTS = {
    "img_dir": ({s: (f"img_dir/{s}", f"ann_dir/{s}") for s in ("train", "val")}, ""),
    "split first": ({s: (f"{s}/images", f"{s}/masks") for s in ("train", "valid")}, ""),
    "annot": ({"train": ("train", "trainannot"), "val": ("val", "valannot")}, ""),
    "no splits": ({"": ("images", "labels")}, "_mask"),
    "voc": ({"": ("JPEGImages", "SegmentationClass")}, ""),
}  # fmt: skip


def write_labels(path, labels, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    if palette:
        image = image.convert("P")
        image.putpalette(bytes(range(48)))
        image.putdata(labels.ravel().tolist())
    image.save(path)


def write_folder(root, kind="indices", layout="img_dir", count=5, size=(40, 56)):
    """A data set; the truth (H, W) by the path of each label map."""
    rng, truths = np.random.default_rng(0), {}
    folders, ending = LAYOUTS[layout]
    for images, labels in folders.values():
        (root / images).mkdir(parents=True)
        for index in range(count):
            truth = np.repeat(np.repeat(rng.integers(0, 3, (5, 7)), 8, 0), 8, 1).astype(np.uint8)
            truth = truth[: size[0], : size[1]]
            truth[:2, :6] = [0, 1, 2, 0, 1, 2]
            pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / images / f"{index}.jpg")
            path = root / labels / f"{index}{ending}.png"
            write_labels(path, KINDS[kind](truth), palette=kind == "palette")
            truths[str(path)] = np.minimum(truth, 1) if kind.startswith("mask") else truth
    return truths


def new(folder, *words):
    path = folder / "mine.py"
    assert main(["new", str(path), "--data", str(folder / "data"), *words]) == 0
    return Config.fromfile(path)


def refusal(folder, capsys, *words):
    """The line that the command leaves with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["new", str(folder / "mine.py"), "--data", str(folder / "data"), *words])
    printed = capsys.readouterr().err
    assert caught.value.code == 2
    assert printed.startswith("swin-backbone new: error: ")
    assert printed.count("\n") == 1
    assert not list(folder.glob("mine*")), "something was written"
    return printed


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_any_kind_become_classes(kind, tmp_path, capsys):
    from mmseg.registry import DATASETS

    truths = write_folder(tmp_path / "data", kind)
    cfg = new(tmp_path)
    printed = capsys.readouterr().out
    number = 2 if kind.startswith("mask") else 3
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == number
    if number == 2:
        assert "masks of 0 and 255" in printed
        assert list(cfg.metainfo.classes) == ["background", "foreground"]
    with DefaultScope.overwrite_default_scope("mmseg"):
        dataset = DATASETS.build(cfg.val_dataloader.dataset)
    assert len(dataset) == 5
    for sample in dataset:
        labels = sample["data_samples"].gt_sem_seg.data[0].numpy()
        assert (labels == truths[sample["data_samples"].seg_map_path]).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folders_are_found_by_their_names(layout, tmp_path, capsys):
    from mmseg.registry import DATASETS

    write_folder(tmp_path / "data", layout=layout)
    cfg = new(tmp_path)
    with DefaultScope.overwrite_default_scope("mmseg"):
        train, val = (
            DATASETS.build(loader.dataset) for loader in (cfg.train_dataloader, cfg.val_dataloader)
        )
    names = [{train.get_data_info(i)["img_path"] for i in range(len(train))},
             {val.get_data_info(i)["img_path"] for i in range(len(val))}]  # fmt: skip
    assert [len(found) for found in names] == ([5, 5] if len(LAYOUTS[layout][0]) == 2 else [4, 1])
    assert not names[0] & names[1]
    train[0]


def test_classes_are_named_by_the_folder_or_the_user(tmp_path, capsys):
    truths = write_folder(tmp_path / "data", "colours")
    names = tmp_path / "data" / "label_colors.txt"
    names.write_text("10 200 255 sea\n0 0 0 night\n128 64 0 mud\n")
    cfg = new(tmp_path)
    assert list(cfg.metainfo.classes) == ["sea", "night", "mud"]
    assert cfg.load_labels.colours == [[10, 200, 255], [0, 0, 0], [128, 64, 0]]
    path, truth = next(iter(truths.items()))
    with DefaultScope.overwrite_default_scope("mmseg"):
        loaded = TRANSFORMS.build(cfg.load_labels)({"seg_map_path": path})["gt_seg_map"]
    assert (loaded == np.array([1, 0, 2])[truth]).all()  # in the order of the file
    assert new(tmp_path, "--classes", "a", "b", "c", "--force").metainfo.classes == ["a", "b", "c"]
    names.write_text("10 200 255 sea\n0 0 0 night\n")
    assert len(new(tmp_path, "--force").metainfo.classes) == 2
    assert "1 colours are no class" in capsys.readouterr().out


def test_the_table_counts_pixels_and_images(tmp_path, capsys):
    truths = write_folder(tmp_path / "data")
    path, truth = next(iter(truths.items()))
    truth[4:9] = 255
    write_labels(Path(path), truth)
    new(tmp_path)
    printed = capsys.readouterr().out
    stacked = np.stack(list(truths.values()))
    for label in (0, 1, 2, 255):
        share = f"{100 * (stacked == label).mean():.2f} %"
        assert re.search(rf"{label} .*{re.escape(share)}", printed), (label, share)
    assert "5 train, 5 val; 56x40" in printed
    picture = Image.open(tmp_path / "mine.png")
    assert picture.height > 4 * 200


def test_the_config_is_for_the_machine(tmp_path):
    card = Machine("a card", 24 * 2**30, 4)
    cpu = Machine("CPU", 0, 1)
    assert crop_side(card, [(1000, 700)] * 3) == 512
    assert crop_side(cpu, [(1000, 700)] * 3) == 256
    assert crop_side(card, [(300, 200)] * 2 + [(2000, 1000)]) == 192
    assert cpu.batch(256**2) == 2
    assert 2 <= card.batch(512**2) < card.batch(256**2) <= 16
    assert cpu.steps(400, 2) <= 1000 < card.steps(4000, 8) <= 20000


def test_pretrained_weights_and_the_model_stand_in_the_config(tmp_path):
    write_folder(tmp_path / "data")
    cfg = new(tmp_path, "--model", "upernet-swinv2-base", "--pretrained", "weights.pth")
    assert cfg.model.backbone.init_cfg == {"type": "Pretrained", "checkpoint": "weights.pth"}
    assert (cfg.model.backbone.arch, cfg.model.backbone.version) == ("base", "v2")
    assert cfg.model.decode_head.in_channels == [128, 256, 512, 1024]


def test_it_trains(tmp_path):
    write_folder(tmp_path / "data", "colours", "no splits")
    new(tmp_path)
    train(tmp_path, SMALL_UPERNET)


def train(folder, small):
    path = folder / "mine.py"
    path.write_text(path.read_text() + small)
    assert (
        main(["train", str(path), "--work-dir", str(folder / "run"), "--cfg-options", *ONCE]) == 0
    )
    assert (folder / "run" / "iter_1.pth").is_file()


def unreadable(root):
    write_folder(root)
    (root / "ann_dir/train/1.png").write_bytes(b"no image")


def unreadable_image(root):
    write_folder(root)
    (root / "img_dir/val/1.jpg").write_bytes(b"")


def other_size(root):
    write_folder(root)
    write_labels(root / "ann_dir/train/2.png", np.zeros((9, 9), np.uint8))


def photographs(root):
    write_folder(root)
    rng = np.random.default_rng(0)
    write_labels(root / "ann_dir/train/0.png", rng.integers(0, 256, (40, 56, 3), dtype=np.uint8))


def without_some(root):
    write_folder(root)
    (root / "ann_dir/train/3.png").unlink()


def without_labels(root):
    (root / "img_dir").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(root / "img_dir" / "0.png")


def jpeg_labels(root):
    write_folder(root)
    for path in (root / "ann_dir/train").glob("*.png"):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()


def mixed(root):
    write_folder(root)
    Image.new("RGB", (8, 8)).save(root / "img_dir/train/x.png")


def one_label(root):
    for path in write_folder(root):
        write_labels(Path(path), np.zeros((40, 56), np.uint8))


def too_few_names(root):
    write_folder(root)
    (root / "classes.txt").write_text("a\nb\n")


def two_folders(root):
    write_folder(root)
    (root / "masks/train").mkdir(parents=True)
    Image.new("L", (8, 8)).save(root / "masks/train/0.png")


def only_val(root):
    write_folder(root)
    for name in ("img_dir", "ann_dir"):
        for path in (root / name / "train").iterdir():
            path.unlink()


def text_file(root):
    root.write_text("")


BROKEN = {
    "nowhere": (lambda root: None, "is not a folder"),
    "a file": (text_file, "is not a folder"),
    "empty": (lambda root: root.mkdir(), "holds no images"),
    "no labels": (without_labels, "no folder of label maps"),
    "some labels": (without_some, r"1 of 5 images .* have no label map .* 3\.jpg"),
    "unreadable": (unreadable, r"ann_dir/train/1\.png: not a readable image"),
    "unreadable image": (unreadable_image, r"img_dir/val/1\.jpg: not a readable image"),
    "other size": (other_size, r"train/2\.png has 9x9 pixels, and its image 56x40"),
    "photographs": (photographs, r"train/0\.png has 3 channels and \d+ colours"),
    "jpeg": (jpeg_labels, r"ann_dir/train holds \.jpg"),
    "mixed": (mixed, r"must hold files of one suffix, and holds 5 \.jpg, 1 \.png"),
    "one label": (one_label, "nothing to tell apart"),
    "too few names": (too_few_names, r"has label 2, and there are names for 2 classes"),
    "two folders": (two_folders, "which of these folders is meant: 'ann_dir/train', 'masks/train'"),
    "only val": (only_val, "none to train on"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_with_a_folder_is_one_line(name, tmp_path, capsys):
    build, message = BROKEN[name]
    build(tmp_path / "data")
    assert re.search(message, refusal(tmp_path, capsys))


def test_words_that_do_not_fit(tmp_path, capsys):
    write_folder(tmp_path / "data")
    assert "none for segmentation" in refusal(tmp_path, capsys, "--model", "upernet-swin-huge")
    assert "there are names for 2 classes" in refusal(tmp_path, capsys, "--classes", "a", "b")
    (tmp_path / "mine.py").write_text("mine = 1")
    with pytest.raises(SystemExit):
        main(["new", str(tmp_path / "mine.py"), "--data", str(tmp_path / "data")])
    assert "--force replaces it" in capsys.readouterr().err
    assert (tmp_path / "mine.py").read_text() == "mine = 1"


def coco(count=5, **changes):
    """Annotations in COCO's format, with some entries replaced."""
    box = {"bbox": [2, 3, 12, 9], "segmentation": [[2, 3, 14, 3, 14, 12, 2, 12]]}
    box |= {"iscrowd": 0, "area": 108}
    size = {"width": 56, "height": 40}
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", **size} for i in range(count)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": [
            {"id": i, "image_id": i % count, "category_id": (7, 3)[i % 2], **box}
            for i in range(2 * count)
        ],
    }
    return {**content, **changes}


def write_coco(root, content=None, name="annotations.json"):
    (root / "images").mkdir(parents=True, exist_ok=True)
    for index in range(5):
        Image.new("RGB", (56, 40), (9, 99, 199)).save(root / "images" / f"{index}.jpg")
    (root / name).write_text(json.dumps(coco() if content is None else content))


def without(content, *keys):
    """The content with these keys of every annotation left out."""
    entries = [
        {k: v for k, v in entry.items() if k not in keys} for entry in content["annotations"]
    ]
    return {**content, "annotations": entries}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (coco(), "MaskRCNN"),
        pytest.param(without(coco(), "segmentation"), "FasterRCNN", marks=pytest.mark.slow),
        pytest.param(without(coco(), "area", "iscrowd", "id"), "MaskRCNN", marks=pytest.mark.slow),
    ],
    ids=["whole", "boxes", "without areas and ids"],
)
def test_a_detector_trains_on_coco(content, kind, tmp_path, capsys):
    pytest.importorskip("mmdet")
    from mmdet.registry import DATASETS

    write_coco(tmp_path / "data", content)
    cfg = new(tmp_path)
    assert cfg.model.type == kind
    assert list(cfg.metainfo.classes) == ["cat", "dog"]
    with DefaultScope.overwrite_default_scope("mmdet"):
        train_set, val = (
            DATASETS.build(loader.dataset) for loader in (cfg.train_dataloader, cfg.val_dataloader)
        )
    images = [{one.get_data_info(i)["img_id"] for i in range(len(one))} for one in (train_set, val)]
    assert images == [{0, 1, 2, 3}, {4}]
    labels = [instance["bbox_label"] for instance in val.get_data_info(0)["instances"]]
    truth = [entry["category_id"] for entry in content["annotations"] if entry["image_id"] == 4]
    assert [(7, 3)[label] for label in labels] == truth
    if kind == "FasterRCNN":
        assert "objects without a mask" in capsys.readouterr().out
    train(tmp_path, SMALL_DETECTOR)


def changed(part, **changes):
    """Annotations whose first entry of a part is another."""
    content = coco()
    content[part][0] = {**content[part][0], **changes}
    return content


def everywhere(**changes):
    """Changes to every third annotation; a change may be a function of the entry."""

    def change(content):
        for entry in content["annotations"][::3]:
            entry.update({k: v(entry) if callable(v) else v for k, v in changes.items()})
        return content

    return change


def wrong_sizes(entry):
    return {"size": [56, 40], "counts": [3, 9]}


#: What changes annotations, and how many of ten objects that leaves to train on; with masks, unless
#: the third says that boxes alone can be read.
ODD_COCO = {
    "ids from zero": (lambda content: content, 10, True),
    "ids twice": (everywhere(id=1), 10, True),
    "ids of text": (everywhere(id=lambda entry: f"a{entry['id']}"), 10, True),
    "ids below zero": (everywhere(id=lambda entry: -1 - entry["id"]), 10, True),
    "areas of zero": (everywhere(area=0), 10, True),
    "areas of nothing": (everywhere(area=None), 10, True),
    "areas of text": (everywhere(area="108"), 10, True),
    "empty boxes": (everywhere(bbox=[2, 3, 0, 9]), 6, True),
    "turned boxes": (everywhere(bbox=[14, 3, -12, 9]), 6, True),
    "boxes of half a pixel": (everywhere(bbox=[2, 3, 0.5, 9], area=4.5), 6, True),
    "boxes outside": (everywhere(bbox=[60, 3, 12, 9]), 6, True),
    "crowds of nothing": (everywhere(iscrowd=None), 10, True),
    "crowds": (everywhere(iscrowd=True), 6, True),
    "to be ignored": (everywhere(ignore=1), 6, True),
    "two corners": (everywhere(segmentation=[[2, 3, 14, 3]]), 10, False),
    "two corners, too": (
        everywhere(segmentation=lambda entry: [*entry["segmentation"], [2, 3, 14, 3]]), 10, True,
    ),
    "no polygon": (everywhere(segmentation=[[]]), 10, False),
    "no mask": (everywhere(segmentation=None), 10, False),
    "masks of text": (everywhere(segmentation="RLE"), 10, False),
    "one flat polygon": (everywhere(segmentation=[2, 3, 14, 3, 14, 12]), 10, False),
    "masks of another size": (everywhere(segmentation=wrong_sizes), 10, False),
}  # fmt: skip


@pytest.mark.parametrize("split", ["", "val"])
@pytest.mark.parametrize("name", ODD_COCO)
def test_training_and_metric_see_the_objects_that_the_table_counts(name, split, tmp_path, capsys):
    """Of both splits of one file, and of a file of its own: what is found, as the file has it, is
    all that there is to find."""
    pytest.importorskip("mmdet")
    from mmdet.evaluation import CocoMetric
    from mmdet.registry import DATASETS

    change, objects, masks = ODD_COCO[name]
    content = change(coco())
    write_coco(tmp_path / "data", content, f"{split}.json")
    if split:
        write_coco(tmp_path / "data", coco(), "train.json")
    cfg = new(tmp_path)
    assert cfg.model.type == ("MaskRCNN" if masks else "FasterRCNN")
    val, train_set = cfg.val_dataloader.dataset, cfg.train_dataloader.dataset
    with DefaultScope.overwrite_default_scope("mmdet"):
        val, *others = [DATASETS.build(one) for one in ([val] if split else [val, train_set])]
    read = [one.get_data_info(i)["instances"] for one in (val, *others) for i in range(len(one))]
    learned = [entry for some in read for entry in some if not entry["ignore_flag"]]
    assert len(learned) == objects
    metric = CocoMetric(ann_file=cfg.val_evaluator.ann_file, metric="bbox")
    metric.dataset_meta = val.metainfo
    for index in range(len(val)):
        info = val.get_data_info(index)
        found = [entry for entry in info["instances"] if not entry["ignore_flag"]]
        # Those that say ignore are left out of training alone.
        found += [
            {"bbox": [2, 3, 14, 12], "bbox_label": (7, 3).index(entry["category_id"])}
            for entry in content["annotations"]
            if entry.get("ignore") and entry["image_id"] == info["img_id"]
        ]
        instances = {
            "bboxes": torch.tensor([entry["bbox"] for entry in found]).view(-1, 4),
            "labels": torch.tensor([entry["bbox_label"] for entry in found], dtype=torch.long),
            "scores": torch.ones(len(found)),
        }
        sample = {"img_id": info["img_id"], "ori_shape": (40, 56), "pred_instances": instances}
        metric.process({}, [sample])
    assert metric.evaluate(len(val))["coco/bbox_mAP"] == 1


def test_masks_of_one_split_alone_are_not_used(tmp_path, capsys):
    write_coco(tmp_path / "data", coco(), "train.json")
    write_coco(tmp_path / "data", without(coco(), "segmentation"), "val.json")
    assert new(tmp_path).model.type == "FasterRCNN"
    assert "boxes alone" in capsys.readouterr().out


BROKEN_COCO = {
    "no annotations": (coco(annotations=[]), "has no annotations"),
    "no categories": (coco(categories=[]), "has no categories"),
    "no list": ({"images": [], "annotations": []}, "has no list of categories"),
    "other JSON": ({"a": 1}, "no JSON file in COCO's format"),
    "category": (changed("annotations", category_id=1), r"annotation 0 has category_id 1,.*3, 7"),
    "no category": (without(coco(), "category_id"), "category_id None"),
    "image": (changed("annotations", image_id=99), "is of image 99, which is not listed"),
    "box": (changed("annotations", bbox=[1, 2]), r"must have a bbox .* got \[1, 2\]"),
    "missing image": (changed("images", file_name="x.jpg"), "image x.jpg is nowhere"),
    "another missing": (coco(6), r"1 of 6 images are not in .*, the first is 5\.jpg"),
    "size": (changed("images", width=57), "said to have 57x40 pixels, and has 56x40"),
    "no width": (coco(images=[{"id": 0, "file_name": "0.jpg"}]), "image 0 has no height"),
    "twice": (coco(categories=[{"id": 7, "name": "cat"}] * 2), "is there twice"),
    "empty boxes": (
        {**coco(), "annotations": [{**coco()["annotations"][0], "bbox": [1, 1, 0, 3]}]},
        "all 1 boxes are empty",
    ),
    "crowds alone": (
        {**coco(), "annotations": [{**coco()["annotations"][0], "iscrowd": 1}]},
        "all 1 objects are crowds",
    ),
    "fractions": (
        {**coco(), "annotations": [{**coco()["annotations"][0], "bbox": [0.1, 0.1, 0.5, 0.3]}]},
        "less than a pixel wide",
    ),
    "not a number": (changed("annotations", bbox=[1, 2, float("nan"), 3]), "must have a bbox"),
    "infinite": (changed("annotations", bbox=[1, 2, float("inf"), 3]), "must have a bbox"),
    "a list for a category": (changed("annotations", category_id=[7]), r"category_id \[7\]"),
    "a list for an image": (changed("annotations", image_id=[0]), r"is of image \[0\]"),
    "ids of two types": (
        coco(categories=[{"id": 1, "name": "cat"}, {"id": "x", "name": "dog"}]),
        "category_id 7, which is none of the categories",
    ),
    "a number for an annotation": (coco(annotations=[5]), "annotation 0 must be a dictionary"),
    "a name for an image": (coco(images=["0.jpg"]), "image 0 must be a dictionary"),
    "a number for a name": (changed("images", file_name=3), "file_name of text, got 0 and 3"),
    "a list for an id": (changed("images", id=[0]), r"must have an id.*\[0\]"),
    "a list for a category's id": (changed("categories", id=[7]), "must have an id and a name"),
    "width of text": (changed("images", width="56"), "width in pixels, got '56'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_COCO)
def test_what_is_wrong_with_annotations_is_one_line(name, tmp_path, capsys):
    content, message = BROKEN_COCO[name]
    write_coco(tmp_path / "data", content)
    assert re.search(message, refusal(tmp_path, capsys))


def test_annotations_that_are_no_json_are_named(tmp_path, capsys):
    write_coco(tmp_path / "data")
    (tmp_path / "data/annotations.json").write_text("{")
    assert "annotations.json cannot be read" in refusal(tmp_path, capsys)
    (tmp_path / "data/annotations.json").unlink()
    assert "no folder of label maps" in refusal(tmp_path, capsys)
    assert "no JSON file" in refusal(tmp_path, capsys, "--task", "detection")


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif("SWIN_DATA_ROOT" not in os.environ, reason="needs real images")
@pytest.mark.parametrize(
    ("name", "words", "classes", "small"),
    [
        ("camvid", [], 11, SMALL_UPERNET),
        ("nuclei", [], 3, SMALL_UPERNET),
        ("nuclei", ["--task", "detection"], 1, SMALL_DETECTOR),
    ],
)
def test_real_data(name, words, classes, small, tmp_path, capsys):
    (tmp_path / "data").symlink_to(Path(os.environ["SWIN_DATA_ROOT"]) / name)
    cfg = new(tmp_path, *words)
    assert len(cfg.metainfo.classes) == classes
    printed = capsys.readouterr().out
    assert {"camvid": "367 train, 101 val", "nuclei": "379 train, 108 val"}[name] in printed
    train(tmp_path, small)
