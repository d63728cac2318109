"""Fast training data beside mmseg's own transforms: the same draws, the same labels, pixels."""

import copy
import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.tiny_run import tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import HistoryBuffer
from mmengine.registry import FUNCTIONS, MODELS, TRANSFORMS, DefaultScope
from mmengine.runner import Runner
from PIL import Image

from swin_backbone import ops
from swin_backbone.images import UnreadableImageError
from swin_backbone.openmmlab.fast_data.rewrite_config import use_fast_data

IMAGE, LABELS, FLIP, DISTORT, PACK = (
    {"type": name}
    for name in (
        "LoadImageFromFile",
        "LoadAnnotations",
        "RandomFlip",
        "PhotoMetricDistortion",
        "PackSegInputs",
    )
)
FLIP = {**FLIP, "prob": [0.3, 0.2, 0.1], "direction": ["horizontal", "vertical", "diagonal"]}
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


@pytest.fixture(autouse=True)
def mmseg_scope():
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


def smooth(rng, height, width):
    """Soft shapes, as photographs have them, and some grain."""
    coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(float)
    return (image + rng.normal(0, 3, image.shape)).clip(0, 255).astype(np.uint8)


def write_sample(folder, rng, height, width, *, ending="jpg", mode="P", values=9):
    """An image and its labels, and what a dataset says of them."""
    folder.mkdir(exist_ok=True, parents=True)
    paths = folder / f"image.{ending}", folder / "labels.png"
    cv2.imwrite(str(paths[0]), smooth(rng, height, width))
    coarse = rng.integers(0, values, (height // 24 + 1, width // 24 + 1))
    labels = coarse.repeat(24, 0).repeat(24, 1)[:height, :width].astype(np.uint8)
    labels[:5] = 255
    picture = Image.fromarray(labels)
    if mode == "P":
        picture.putpalette(list(range(256)) * 3)
    picture.save(paths[1])
    return {
        "img_path": str(paths[0]),
        "seg_map_path": str(paths[1]),
        "label_map": None,
        "reduce_zero_label": False,
        "seg_fields": [],
    }


def crop(size=(96, 128), ratio=0.75):
    return {"type": "RandomCrop", "crop_size": size, "cat_max_ratio": ratio}


def resize(scale=(400, 200), ratios=(0.5, 2.0), keep_ratio=True):
    return {
        "type": "RandomResize",
        "scale": scale,
        "ratio_range": ratios,
        "keep_ratio": keep_ratio,
    }


def config(pipeline, **preprocessor):
    return Config(
        {
            "model": {
                "data_preprocessor": {
                    "type": "SegDataPreProcessor",
                    "mean": MEAN,
                    "std": STD,
                    "bgr_to_rgb": True,
                    "pad_val": 0,
                    "seg_pad_val": 255,
                    "size": (96, 128),
                    **preprocessor,
                }
            },
            "train_dataloader": {
                "batch_size": 2,
                "num_workers": 2,
                "dataset": {"type": "BaseSegDataset", "pipeline": pipeline},
            },
        }
    )


def fast_config(pipeline, reduced=False, **preprocessor):
    cfg = config(pipeline, **preprocessor)
    use_fast_data(cfg, reduced, on_gpu=True)
    return cfg


def run(steps, sample, seed):
    """What a pipeline makes of a sample, and the generator's next number."""
    np.random.seed(seed)
    results = copy.deepcopy(sample)
    for step in steps:
        results = step(results)
    return results, np.random.random()


def build(pipeline):
    return [TRANSFORMS.build(step) for step in pipeline]


CASES = {
    "downscaled and upscaled": {},
    "no repeated crops": {"crop": crop(ratio=1.0)},
    "larger than the image": {"crop": crop((500, 700))},
    "a ratio of its own": {"resize": resize((300, 330), keep_ratio=False)},
    "fixed": {"resize": {"type": "Resize", "scale": (333, 250), "keep_ratio": True}},
    "as it is": {"resize": None},
    "reduced labels": {"sample": {"reduce_zero_label": True}},
    "renamed labels": {"sample": {"label_map": {0: 3, 3: 0, 5: 255}}},
    "both": {"sample": {"reduce_zero_label": True, "label_map": {0: 3, 1: 255}}},
    "grey labels": {"write": {"mode": "L"}},
    "png": {"write": {"ending": "png"}},
    "two labels": {"write": {"values": 2}},
    "one label": {"write": {"values": 1}},
    "portrait": {"write": {"height": 300, "width": 190}},
    "mapped labels": {"labels": {"type": "LoadMappedLabels", "values": [3, 0, 255, 7]}},
}


@pytest.mark.parametrize("case", CASES)
def test_a_sample_is_that_of_the_stock_transforms(tmp_path, case):
    case = CASES[case]
    rng = np.random.default_rng(1)
    sample = write_sample(tmp_path, rng, **{"height": 210, "width": 330, **case.get("write", {})})
    sample |= case.get("sample", {})
    sizes = case.get("resize", resize())
    labels = case.get("labels", LABELS)
    stock = [IMAGE, labels, *([sizes] if sizes else []), case.get("crop", crop()), FLIP]
    fast = fast_config([*stock, PACK]).train_dataloader.dataset.pipeline
    stock, fast = build(stock), build(fast[:-1])
    assert len(fast) == 2
    differences = []
    for seed in range(40):
        expected, drawn = run(stock, sample, seed)
        found, also_drawn = run(fast, sample, seed)
        assert drawn == also_drawn
        np.testing.assert_array_equal(found["gt_seg_map"], expected["gt_seg_map"])
        assert found["gt_seg_map"].dtype == np.uint8
        difference = np.abs(found["img"].astype(int) - expected["img"])
        differences.append(difference.max())
        for result in (expected, found):
            result.pop("img"), result.pop("gt_seg_map")
        assert found == expected
    # Places differ by up to 1/64 of a pixel on each axis: a 32nd of the contrast of neighbours,
    # which is 100 at most here, and a rounding.
    assert max(differences) <= 4
    assert np.mean(differences) < 1
    if sizes is None:
        assert max(differences) == 0


def test_a_jpeg_that_shrinks_is_decoded_smaller(tmp_path):
    sample = write_sample(tmp_path, np.random.default_rng(2), 901, 1203)
    pipeline = [IMAGE, LABELS, resize((400, 200), (0.4, 0.9)), crop(), PACK]
    reduced, whole = (
        build(fast_config(pipeline, reduced).train_dataloader.dataset.pipeline)
        for reduced in (True, False)
    )
    stock = build(pipeline)
    for seed in range(10):
        expected, _ = run(stock[:-1], sample, seed)
        exact, _ = run(whole[:-1], sample, seed)
        averaged, _ = run(reduced[:-1], sample, seed)
        for found in (exact, averaged):
            np.testing.assert_array_equal(found["gt_seg_map"], expected["gt_seg_map"])
            assert found["img"].shape == expected["img"].shape
            assert found["ori_shape"] == expected["ori_shape"] == (901, 1203)
        assert np.abs(exact["img"].astype(int) - expected["img"]).max() <= 4
        # What is averaged has not the grain that stock keeps: but it is the same place.
        blurred = cv2.blur(expected["img"], (5, 5)).astype(float)
        difference = (cv2.blur(averaged["img"], (5, 5)) - blurred).ravel()
        assert np.abs(difference).mean() < 2.5
        assert np.corrcoef(cv2.blur(averaged["img"], (5, 5)).ravel(), blurred.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("reduced", [True, False])
def test_an_image_that_lies_on_its_side_is_turned(tmp_path, orientation, reduced):
    rng = np.random.default_rng(11)
    sample = write_sample(tmp_path, rng, 300, 200)
    upright = Image.open(sample["img_path"])
    back = {
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright.transpose(back[orientation]).save(sample["img_path"], quality=95, exif=exif)
    stock = [IMAGE, LABELS, resize((120, 80), (0.8, 1.2)), crop((64, 50))]
    fast = build(fast_config([*stock, PACK], reduced).train_dataloader.dataset.pipeline[:1])
    stock = build(stock)
    for seed in range(6):
        expected, _ = run(stock, sample, seed)
        found, _ = run(fast, sample, seed)
        np.testing.assert_array_equal(found["gt_seg_map"], expected["gt_seg_map"])
        assert found["ori_shape"] == expected["ori_shape"] == (300, 200)
        pair = [cv2.blur(results["img"], (5, 5)).ravel() for results in (found, expected)]
        assert np.corrcoef(*pair)[0, 1] > 0.98


def test_labels_of_an_image_that_was_turned_without_them(tmp_path):
    sample = write_sample(tmp_path, np.random.default_rng(12), 300, 200)
    labels = Image.open(sample["seg_map_path"])
    labels.transpose(Image.Transpose.ROTATE_90).save(sample["seg_map_path"])
    fast = build(
        fast_config([IMAGE, LABELS, resize(), crop(), PACK]).train_dataloader.dataset.pipeline
    )
    with pytest.raises(ValueError, match=r"labels\.png' have 200x300 pixels.*300x200"):
        run(fast, sample, 0)


def test_labels_of_another_size_go_the_stock_way(tmp_path):
    rng = np.random.default_rng(3)
    sample = write_sample(tmp_path, rng, 210, 330)
    Image.open(sample["seg_map_path"]).resize((165, 105)).save(sample["seg_map_path"])
    stock = [IMAGE, LABELS, resize(), crop()]
    fast = build(fast_config([*stock, PACK]).train_dataloader.dataset.pipeline[:1])
    stock = build(stock)
    for seed in range(5):
        expected, drawn = run(stock, sample, seed)
        found, also_drawn = run(fast, sample, seed)
        assert drawn == also_drawn
        for name in ("img", "gt_seg_map"):
            np.testing.assert_array_equal(found[name], expected[name])


@settings(max_examples=60, deadline=None)
@given(
    sides=st.tuples(st.integers(3, 200), st.integers(3, 200)),
    new=st.tuples(st.integers(3, 400), st.integers(3, 400)),
    ends=st.tuples(*[st.floats(0, 1)] * 4),
    seed=st.integers(0, 999),
)
def test_a_crop_of_any_resized_image(sides, new, ends, seed):
    from swin_backbone.openmmlab.fast_data.cropped_resize import (
        Box,
        crop_resized,
        crop_resized_labels,
        nearest_places,
    )

    def span(size, first, second):
        low, high = sorted((int(first * size), int(second * size)))
        return min(low, size - 1), max(high, min(low, size - 1) + 1)

    box = Box(*span(new[0], *ends[:2]), *span(new[1], *ends[2:]))
    image = np.random.default_rng(seed).integers(0, 256, (*sides, 3), dtype=np.uint8)
    expected = box.cut(cv2.resize(image, new[::-1], interpolation=cv2.INTER_LINEAR))
    found = crop_resized(image, new, box)
    # Noise: neighbours differ by up to 255, so a 64th of a pixel on both axes makes up to 8.
    assert np.abs(found.astype(int) - expected).max() <= 9
    labels = image[..., 0]
    places = [nearest_places(old, size) for old, size in zip(sides, new, strict=True)]
    expected = box.cut(cv2.resize(labels, new[::-1], interpolation=cv2.INTER_NEAREST))
    np.testing.assert_array_equal(crop_resized_labels(labels, places, box), expected)


def test_distortions_are_those_of_mmseg():
    rng = np.random.default_rng(4)
    stock = TRANSFORMS.build({**DISTORT, "hue_delta": 30})
    draw = TRANSFORMS.build({"type": "DrawPhotoMetricDistortion", "hue_delta": 30})
    images = rng.integers(0, 256, (64, 37, 128, 3), dtype=np.uint8)
    images[:8] //= 64  # dark, and many greys and primary colours
    expected, rows = [], []
    for seed, image in enumerate(images):
        result, drawn = run([stock], {"img": image}, seed)
        row, also_drawn = run([draw], {}, seed)
        assert drawn == also_drawn
        expected.append(result["img"])
        rows.append(row["distortion"])
    found = ops.distort_images(torch.from_numpy(images), torch.from_numpy(np.stack(rows)))
    found = found.permute(0, 2, 3, 1)
    difference = (found - torch.from_numpy(np.stack(expected))).abs()
    assert (found == found.round()).all()
    # OpenCV fuses multiplications with additions, which moves a rare rounding by one; what comes
    # after, contrast of up to 1.5 and another change of colours, may make a few of it.
    assert (difference > 0).float().mean() < 1e-3
    assert difference.max() <= 6


def batches(tmp_path, pipeline, sizes, **preprocessor):
    """The same samples as stock and fast batches, after their preprocessors."""
    rng = np.random.default_rng(5)
    samples = [write_sample(tmp_path / str(i), rng, *size) for i, size in enumerate(sizes)]
    made = []
    for cfg in (config(pipeline, **preprocessor), fast_config(pipeline, **preprocessor)):
        loader = cfg.train_dataloader
        steps = build(loader.dataset.pipeline)
        packed = [run(steps, sample, seed)[0] for seed, sample in enumerate(samples)]
        collate = loader.get("collate_fn")
        batch = FUNCTIONS.get(collate.type)(packed) if collate else pseudo_collate(packed)
        made.append(MODELS.build(cfg.model.data_preprocessor)(batch, training=True))
    return made


@pytest.mark.parametrize(
    ("sizes", "preprocessor"),
    [
        ([(210, 330)] * 3, {}),
        ([(210, 330), (50, 64), (300, 64)], {}),
        ([(210, 330), (50, 64)], {"size": None, "size_divisor": 32}),
        ([(210, 330), (50, 64)], {"size": (128, 160), "pad_val": 7, "seg_pad_val": 3}),
        ([(210, 330)], {"mean": None, "std": None, "bgr_to_rgb": False}),
    ],
)
def test_a_batch_is_that_of_the_stock_preprocessor(tmp_path, sizes, preprocessor):
    pipeline = [IMAGE, LABELS, crop(), FLIP, DISTORT, PACK]
    stock, fast = batches(tmp_path, pipeline, sizes, **preprocessor)
    assert fast["inputs"].shape == stock["inputs"].shape
    assert fast["inputs"].dtype == torch.float32
    assert fast["inputs"].is_contiguous()
    unit = 1 / min(STD) if preprocessor.get("mean", 0) is not None else 1
    difference = (fast["inputs"] - stock["inputs"]).abs() / unit
    assert difference.max() <= 6.1  # as distortions, in steps of a byte
    assert (difference > 0.1).float().mean() < 1e-3
    for ours, theirs in zip(fast["data_samples"], stock["data_samples"], strict=True):
        assert torch.equal(ours.gt_sem_seg.data, theirs.gt_sem_seg.data)
        assert ours.gt_sem_seg.data.dtype == theirs.gt_sem_seg.data.dtype
        own = {key: value for key, value in ours.metainfo.items() if key != "label_values"}
        assert {key: tuple(v) if isinstance(v, torch.Size) else v for key, v in own.items()} == {
            key: tuple(v) if isinstance(v, torch.Size) else v for key, v in theirs.metainfo.items()
        }


def test_validation_batches_go_the_stock_way(tmp_path):
    cfg = fast_config([IMAGE, LABELS, crop(), PACK])
    sample = write_sample(tmp_path, np.random.default_rng(6), 60, 80)
    packed, _ = run(build([IMAGE, LABELS, PACK]), sample, 0)
    batch = pseudo_collate([packed])
    stock = MODELS.build(config([IMAGE]).model.data_preprocessor)(copy.deepcopy(batch))
    fast = MODELS.build(cfg.model.data_preprocessor)(batch)
    assert torch.equal(fast["inputs"], stock["inputs"])


def test_fast_transforms_travel_to_other_processes(tmp_path):
    sample = write_sample(tmp_path, np.random.default_rng(7), 210, 330)
    fast = build(
        fast_config(
            [IMAGE, LABELS, resize(), crop(), FLIP, DISTORT, PACK]
        ).train_dataloader.dataset.pipeline
    )
    there = pickle.loads(pickle.dumps(fast))
    expected, _ = run(fast, sample, 0)
    found, _ = run(there, sample, 0)
    assert torch.equal(found["inputs"], expected["inputs"])


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    sample = write_sample(tmp_path, np.random.default_rng(8), 210, 330)
    path = Path(sample["img_path"])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    fast = build(
        fast_config([IMAGE, LABELS, resize(), crop(), PACK]).train_dataloader.dataset.pipeline
    )
    with pytest.raises(UnreadableImageError, match=r"image\.jpg.*cut off"):
        run(fast, sample, 0)


def trained(scenes, work_dir, fast, steps=8, **options):
    """A run's runner, and what it logged of each step."""
    cfg = tiny_config(scenes, work_dir, steps=steps, num_workers=1, **options)
    cfg.default_hooks.logger = {"type": "LoggerHook", "interval": 3}
    cfg.train_cfg.val_interval = steps
    if fast:
        use_fast_data(cfg, reduced=False, on_gpu=True)
        cfg.train_dataloader.pin_memory = False
    runner = Runner.from_cfg(cfg)
    runner.train()
    lines = next(Path(work_dir).glob("*/vis_data/scalars.json")).read_text().splitlines()
    return runner, [json.loads(line) for line in lines]


def test_a_run_is_the_stock_run(scenes, tmp_path):
    stock, expected = trained(scenes, tmp_path / "stock", fast=False)
    fast, found = trained(scenes, tmp_path / "fast", fast=True)
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ("loss", "decode.acc_seg", "lr", "mIoU"):
            if name in theirs:
                # Pixels that differ by a rounding, in images of 32 by 32.
                assert ours[name] == pytest.approx(theirs[name], rel=2e-2, abs=1e-6)
    scalars = fast.message_hub.log_scalars
    for name, history in stock.message_hub.log_scalars.items():
        assert len(scalars[name].data[0]) == len(history.data[0])


def test_a_run_goes_on_with_and_without(scenes, tmp_path):
    trained(scenes, tmp_path / "run", fast=True, steps=6)
    checkpoint = str(tmp_path / "run" / "iter_6.pth")
    for fast in (True, False):
        runner, lines = trained(
            scenes, tmp_path / str(fast), fast, steps=9, resume=True, load_from=checkpoint
        )
        history = runner.message_hub.get_scalar("train/loss")
        assert len(history.data[0]) == 9
        assert max(line["step"] for line in lines) == 9
    hub = torch.load(checkpoint, weights_only=False)["message_hub"]
    assert {type(history) for history in hub["log_scalars"].values()} == {HistoryBuffer}


PLAIN = [IMAGE, LABELS, resize(), crop(), FLIP, DISTORT, PACK]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda cfg: cfg.model.data_preprocessor.update(type="SwinSegDataPreProcessor"),
         "the data preprocessor is SwinSegDataPreProcessor"),
        (lambda cfg: cfg.model.data_preprocessor.pop("size"), "neither size nor size_divisor"),
        (lambda cfg: cfg.train_dataloader.update(collate_fn={"type": "default_collate"}),
         "a collate_fn of its own, default_collate"),
        (lambda cfg: pipeline_of(cfg).insert(5, {"type": "GenerateEdge"}), "GenerateEdge"),
        (lambda cfg: pipeline_of(cfg).insert(6, {"type": "CLAHE"}), "CLAHE"),
        (lambda cfg: pipeline_of(cfg).pop(), "ends with PhotoMetricDistortion"),
        (lambda cfg: pipeline_of(cfg)[0].update(to_float32=True), "to_float32 is True"),
        (lambda cfg: pipeline_of(cfg)[1].update(imdecode_backend="cv2"),
         "imdecode_backend is 'cv2'"),
        (lambda cfg: pipeline_of(cfg)[2].update(interpolation="area"), "interpolation is 'area'"),
        (lambda cfg: pipeline_of(cfg)[3].update(crop_type="absolute_range"), "it has crop_type"),
        (lambda cfg: pipeline_of(cfg).pop(3), "step 3 is RandomFlip"),
        (lambda cfg: cfg.train_dataloader.update(num_workers=0), "0: images are loaded while"),
        (lambda cfg: cfg.train_dataloader.update(persistent_workers=False), "the config has False"),
        (lambda cfg: cfg.train_dataloader.dataset.pop("pipeline"), "no dataset with a pipeline"),
        (lambda cfg: cfg.pop("train_dataloader"), "the config has none"),
        (lambda cfg: cfg.update(default_hooks={"runtime_info": {"type": "MyHook"}}),
         "it is MyHook"),
    ],
)  # fmt: skip
def test_what_is_left_has_a_reason(tmp_path, change, reason):
    cfg = config(copy.deepcopy(PLAIN))
    change(cfg)
    report = use_fast_data(cfg, on_gpu=True)
    assert reason in str(report)
    if cfg.get("train_dataloader") and cfg.train_dataloader.dataset.get("pipeline"):
        sample = write_sample(tmp_path, np.random.default_rng(10), 210, 330)
        pipeline = pipeline_of(cfg)
        # Not what mmseg cannot run either, or warns of.
        if reason not in ("GenerateEdge", "it has crop_type", "imdecode_backend is 'cv2'"):
            results, _ = run(build(pipeline), sample, 0)  # what was changed still fits together
            assert "inputs" in results or pipeline[-1]["type"] != "PackSegBytes"
        packs_bytes = pipeline[-1]["type"] == "PackSegBytes"
        assert packs_bytes == (cfg.model.data_preprocessor.type == "SegBytesPreprocessor")
        assert packs_bytes == (
            cfg.train_dataloader.get("collate_fn", {}).get("type") == "stack_seg_bytes"
        )


def pipeline_of(cfg):
    return cfg.train_dataloader.dataset.pipeline


def test_datasets_in_wrappers_are_found():
    cfg = config(copy.deepcopy(PLAIN))
    inner = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = {
        "type": "RepeatDataset",
        "times": 3,
        "dataset": {"type": "ConcatDataset", "datasets": [inner, copy.deepcopy(inner)]},
    }
    use_fast_data(cfg, on_gpu=True)
    datasets = cfg.train_dataloader.dataset.dataset.datasets
    assert [step.type for dataset in datasets for step in dataset.pipeline] == 2 * [
        "LoadResizedCrop", "RandomFlip", "DrawPhotoMetricDistortion", "PackSegBytes"
    ]  # fmt: skip


def test_a_label_that_is_no_class_is_named(scenes, tmp_path):
    cfg = tiny_config(scenes, tmp_path)
    cfg.model.decode_head.num_classes = 2
    use_fast_data(cfg, on_gpu=True)
    cfg.train_dataloader.pin_memory = False
    with pytest.raises(ValueError, match=r"labels of .*num_classes=2.*got \[2\]"):
        Runner.from_cfg(cfg).train()


@pytest.mark.parametrize("option", ["fast", "fast_data"])
def test_the_options_say_what_they_replace(scenes, tmp_path, option):
    from swin_backbone.cli.launching import apply_options

    cfg = tiny_config(scenes, tmp_path)
    apply_options(cfg, [option])
    assert cfg.default_hooks.runtime_info.type == "DeferredRuntimeInfoHook"
    assert pipeline_of(cfg)[0].type == "LoadResizedCrop"
    on_gpu = torch.cuda.is_available()
    assert (cfg.model.data_preprocessor.type == "SegBytesPreprocessor") == on_gpu


def test_without_a_gpu_workers_distort(tmp_path):
    cfg = config(copy.deepcopy(PLAIN))
    report = use_fast_data(cfg, on_gpu=False)
    assert "no GPU to distort" in str(report)
    assert [step.type for step in pipeline_of(cfg)] == [
        "LoadResizedCrop", "RandomFlip", "PhotoMetricDistortion", "PackSegInputs"
    ]  # fmt: skip
    sample = write_sample(tmp_path, np.random.default_rng(13), 210, 330)
    found, drawn = run(build(pipeline_of(cfg)), sample, 3)
    expected, also_drawn = run(build(PLAIN), sample, 3)
    assert drawn == also_drawn
    assert found["inputs"].shape == expected["inputs"].shape
    labels = (results["data_samples"].gt_sem_seg.data for results in (found, expected))
    assert torch.equal(*labels)
