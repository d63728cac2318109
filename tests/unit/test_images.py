"""One way to read an image: training and every tool find the same pixels, or the same refusal."""

import os
import pickle
from pathlib import Path

import cv2
import mmcv.transforms
import numpy as np
import pytest
from helpers.image_files import ALL_KINDS, image_file, png_header, write_bad_files
from helpers.paths import ROOT
from mmengine.config import Config
from mmengine.registry import TRANSFORMS, DefaultScope
from PIL import Image

import swin_backbone  # noqa: F401 (registers what training reads with)
from swin_backbone.images import MOST_PIXELS, UnreadableImageError, decode_image, read_image
from swin_backbone.inference.media_files import as_text, find_files, on_one_line

pytest.importorskip("pyarrow", reason="needs the extra 'features'")

from swin_backbone.cli import predict, visualize
from swin_backbone.inference.features.feature_inputs import Item, Reader
from swin_backbone.inference.uploads import Limits, RefusedError, open_upload, smaller_copy

CONFIGS = {
    "mmseg": next((ROOT / "configs" / "demo").glob("swin-demo_upernet_demo-*.py")),
    "mmdet": next((ROOT / "configs" / "swin_det").glob("mask-rcnn_*_nuclei.py")),
}
REFUSALS = (UnreadableImageError, RefusedError)


class Recorder:
    """Takes the place of a model: keeps the image that it is to paint."""

    def paint(self, image):
        self.image = image
        return Image.new("RGB", (1, 1))


def as_predict(path):
    recorder = Recorder()
    reason = predict.paint(recorder, path, path.with_suffix(".picture.png"))
    if reason:
        raise UnreadableImageError(reason)
    return recorder.image[..., ::-1]


def as_extract(path):
    (image,) = Reader(1).read([Item(str(path))])
    if isinstance(image, UnreadableImageError):
        raise image
    return image


def in_training(scope):
    steps = Config.fromfile(CONFIGS[scope]).train_dataloader.dataset.pipeline

    def read(path):
        with DefaultScope.overwrite_default_scope(scope):
            load = TRANSFORMS.build(dict(steps[0]))
        results = load({"img_path": str(path)})
        assert results["img_shape"] == results["ori_shape"] == results["img"].shape[:2]
        return results["img"][..., ::-1]

    return read


WAYS = {
    "training": in_training("mmseg"),
    "training a detector": in_training("mmdet"),
    "predict": as_predict,
    "extract": as_extract,
    "page": lambda path: open_upload(path, Limits()),
    "visualise": lambda path: visualize.read_thumbnail(path, 640),
}


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_way_finds_the_pixels_of_every_kind_of_file(kind, tmp_path):
    """All orientations, with and against the definition; and what mmcv reads, where it reads."""
    for orientation in range(1, 9):
        file = image_file(kind, orientation)
        path = tmp_path / f"{orientation}{file.suffix}"
        path.write_bytes(file.content)
        read = {way: function(path) for way, function in WAYS.items()}
        for way, pixels in read.items():
            assert pixels.dtype == np.uint8
            assert np.array_equal(pixels, read["training"]), way
        difference = np.abs(read["training"].astype(float) - file.expected).max()
        assert difference <= file.tolerance, f"orientation {orientation}"
        # mmcv turns WebP not at all, or as its OpenCV does; and wraps negative numbers around
        if kind.startswith("WEBP") and orientation > 1:
            continue
        mmcvs = cv2.imdecode(np.frombuffer(file.content, np.uint8), cv2.IMREAD_COLOR)
        if mmcvs is not None:
            stock = mmcv.transforms.LoadImageFromFile()({"img_path": str(path)})["img"]
            assert np.array_equal(stock[..., ::-1], read["training"])


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_way_refuses_a_file_that_is_cut_off(kind, tmp_path):
    file = image_file(kind)
    length = len(file.content)
    for kept in (0, 1, 30, length // 4, length // 2, 3 * length // 4, length - 20, length - 3):
        for fill in (b"", bytes(length - kept)):  # a download's file often has its full length
            if fill and kept > length - 30:
                continue  # zeros may be the pixels that are missing
            path = tmp_path / f"cut{file.suffix}"
            path.write_bytes(file.content[:kept] + (fill if kind.startswith("JPEG") else b""))
            for way, read in WAYS.items():
                assert _is_refused(read, path), f"{way} reads {kept} of {length} bytes"


def _is_refused(read, path):
    try:
        read(path)
    except REFUSALS:
        return True
    return False


def test_every_way_refuses_what_is_no_image_and_says_why(tmp_path):
    for path, reason in write_bad_files(tmp_path).items():
        for way, read in WAYS.items():
            if way == "training" and path.name == "pipe.png":
                continue  # a data set names its files; it would wait for what comes
            if way.startswith("training") and path.name in ("gone.png", "pipe.png"):
                continue  # mmengine reads these bytes, and says so itself
            with pytest.raises(REFUSALS) as caught:
                read(path)
            if way != "page" or path.name != "gone.png":
                assert reason in str(caught.value), (way, path)


def test_an_image_without_permission_is_named(tmp_path, monkeypatch):
    """The superuser may read everything, so the system's refusal is played."""
    (tmp_path / "mine.png").write_bytes(b"")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UnreadableImageError, match=r"mine\.png: cannot be opened: Permission den"):
        read_image(tmp_path / "mine.png")


def test_training_names_the_image_or_leaves_it_out(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    results = {"img_path": str(tmp_path / "empty.png")}
    with pytest.raises(UnreadableImageError, match=r"empty\.png: not a readable image"):
        TRANSFORMS.build({"type": "LoadImageFromFile"})(results)
    assert TRANSFORMS.build({"type": "LoadImageFromFile", "ignore_empty": True})(results) is None


def test_the_error_goes_from_one_process_to_another():
    error = pickle.loads(pickle.dumps(UnreadableImageError("no such file", "a.png")))
    assert (str(error), error.reason, error.path) == (
        "a.png: no such file",
        "no such file",
        "a.png",
    )


def test_other_ways_of_decoding_stay_mmcvs(tmp_path):
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(tmp_path / "grey.png")
    results = {"img_path": str(tmp_path / "grey.png")}
    for options in ({"color_type": "unchanged"}, {"imdecode_backend": "pillow"}):
        ours = TRANSFORMS.build({"type": "LoadImageFromFile", **options})(dict(results))["img"]
        theirs = mmcv.transforms.LoadImageFromFile(**options)(dict(results))["img"]
        assert np.array_equal(ours, theirs)
    to_float = TRANSFORMS.build({"type": "LoadImageFromFile", "to_float32": True})(dict(results))
    assert to_float["img"].dtype == np.float32


def test_bytes_after_the_end_of_a_jpeg_do_not_matter():
    content = image_file("JPEG RGB").content
    whole = decode_image(content)
    assert np.array_equal(decode_image(content + bytes(100)), whole)
    assert np.array_equal(decode_image(content + b"\xff\xda trailer"), whole)


def test_a_thumbnails_end_is_not_the_pictures():
    """In a segment of EXIF, before a picture that is cut off."""
    content = image_file("JPEG RGB").content
    thumbnail = b"\xff\xe1" + (2 + 8).to_bytes(2, "big") + b"thumb\0\xff\xd9"
    whole = content[:2] + thumbnail + content[2:]
    assert np.array_equal(decode_image(whole), decode_image(content))
    with pytest.raises(UnreadableImageError, match="the file is cut off"):
        decode_image(whole[:-2])


def test_channels_come_in_the_order_that_is_asked_for():
    content = image_file("PNG RGB").content
    assert np.array_equal(decode_image(content, "BGR")[..., ::-1], decode_image(content, "RGB"))
    with pytest.raises(ValueError, match="channels must be 'RGB' or 'BGR', got 'rgb'"):
        decode_image(content, "rgb")


def test_the_limit_of_pixels_is_that_of_the_header():
    for width, height in ((13_377, 13_378), (MOST_PIXELS + 1, 1)):
        with pytest.raises(UnreadableImageError, match="far too many pixels"):
            decode_image(png_header(width, height))


def test_files_are_found_in_folders_globs_and_lists(tmp_path):
    names = ["b.png", "a.JPG", "deep/c.tif", "notes.md", "x.png/inside.webp"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    strange = os.fsencode(tmp_path) + b"/\xff.png"
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfb.png\r\n\n" + strange + b"\nb.png\n")
    below = [str(below) for _, below in find_files([str(tmp_path)])]
    assert below == ["a.JPG", "b.png", "deep/c.tif", "gone.png", "x.png/inside.webp"]
    globbed = find_files([str(tmp_path / "*.png")])
    assert [str(below) for _, below in globbed] == ["b.png", "gone.png"]
    listed = find_files([str(tmp_path / "list.txt"), str(tmp_path / "gone.png")])
    assert [os.fsencode(path) for path, _ in listed[:3]] == [b"b.png", strange, b"b.png"]
    assert listed[3][0] == tmp_path / "gone.png"
    for nothing in ("nowhere", "*.png", "x" * 5000, ""):
        with pytest.raises(FileNotFoundError, match="names no image"):
            find_files([nothing])


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        (b"plain \xc3\xa9.png", "plain é.png", "plain é.png"),
        (b"\xff.png", r"\xff.png", r"\xff.png"),
        (b"two\nlines.png", "two\nlines.png", r"two\nlines.png"),
    ],
)
def test_names_are_stored_and_printed_as_text(name, text, line):
    assert as_text(os.fsdecode(name)) == text
    assert on_one_line(os.fsdecode(name)) == line


@pytest.mark.parametrize("shape", [(3000, 4000, 3), (2, 3_000_000, 3), (10, 10, 3)])
def test_a_smaller_copy_has_the_pixels_that_are_worked_on(shape):
    image = np.full(shape, 7, np.uint8)
    copy = smaller_copy(image, megapixels=0.5)
    assert copy.shape[0] * copy.shape[1] <= 0.5e6
    assert (copy == 7).all()
    if shape[0] == 3000:
        assert abs(copy.shape[1] / copy.shape[0] - 4 / 3) < 0.01
        assert copy.shape[0] * copy.shape[1] > 0.49e6
