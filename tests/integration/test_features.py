"""Features of many images: exact, resumable, and readable by others."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.image_files import write_bad_files
from helpers.paths import ROOT
from helpers.tools import call_tool, run_tool
from PIL import Image

for package in ("pyarrow", "safetensors"):
    pytest.importorskip(package, reason="needs the extra 'features'")

import pyarrow.parquet as pq  # noqa: E402

from swin_backbone import create  # noqa: E402
from swin_backbone.inference.features import (  # noqa: E402
    Extractor,
    ExtractorSettings,
    Item,
    Job,
    ShardWorker,
    find_items,
    load_features,
    read_index,
)
from swin_backbone.inference.features.shards import write_index  # noqa: E402
from swin_backbone.inference.media_files import as_text, on_one_line  # noqa: E402
from swin_backbone.inference.preprocessing import IMAGENET  # noqa: E402

CONFIG = """
model = dict(
    backbone=dict(type="SwinBackbone", embed_dims=8, depths=(2, 2), num_heads=(1, 2),
                  strides=(4, 2), out_indices=(0, 1)))
"""
SIZES = [(33, 61), (40, 40), (5, 9), (40, 40), (33, 61), (64, 20), (1, 1)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Config and checkpoint of a tiny backbone."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "tiny.py").write_text(CONFIG)
    torch.manual_seed(0)
    torch.save(create(str(folder / "tiny.py")).state_dict(), folder / "tiny.pth")
    return str(folder / "tiny.py"), str(folder / "tiny.pth")


@pytest.fixture
def photos(tmp_path):
    """Folder of images of several sizes."""
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for index, size in enumerate(SIZES):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(
            folder / f"{index}.png"
        )
    return folder


def alone(model, path, stage):
    """The map of one image that nothing else was near."""
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
    with torch.no_grad():
        return create(*model)(IMAGENET.normalise(pixels[None]))[stage][0]


def run_job(out, items, settings, **options):
    job = Job(out, items, settings, shard_size=options.pop("shard_size", 3))
    shards = job.start()
    worker = ShardWorker(job, "cpu", **options)
    unreadable = sum(worker.run(shard) for shard in shards)
    return write_index(out, job.num_shards).to_pylist(), unreadable


@pytest.mark.parametrize("pooled", [True, False], ids=["pooled", "dense"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_features_are_those_of_each_image_alone(pooled, batch_size, model, photos, tmp_path):
    settings = ExtractorSettings(*model, stages=(0, 1), pooled=pooled)
    items = find_items(str(photos))
    index, unreadable = run_job(tmp_path / "out", items, settings, batch_size=batch_size)
    assert unreadable == 0
    assert [(row["height"], row["width"]) for row in index] == SIZES
    for row in index:
        for stage in (0, 1):
            expected = alone(model, row["path"], stage)
            expected = expected.mean(dim=(1, 2)) if pooled else expected
            actual = load_features(tmp_path / "out", row, stage)
            # float32; a batch sums products in another order
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_features_have_the_chosen_dtype(dtype, model):
    image = np.random.default_rng(1).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    stored, exact = (
        Extractor(ExtractorSettings(*model, stages=(1,), dtype=name), "cpu")([image])[0][0]
        for name in (dtype, "fp32")
    )
    types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    assert stored.dtype == types[dtype]
    # bfloat16 keeps 8 bits, and a few products in it stand before the mean
    torch.testing.assert_close(stored.float(), exact, rtol=0.05, atol=0.02)


def test_index_opens_in_pandas_and_pyarrow(model, photos, tmp_path):
    pandas = pytest.importorskip("pandas")
    run_job(tmp_path / "out", find_items(str(photos)), ExtractorSettings(*model, stages=(1,)))
    frame = pandas.read_parquet(tmp_path / "out" / "index.parquet")
    assert list(frame["status"]) == ["ok"] * len(SIZES)
    assert frame.equals(read_index(tmp_path / "out").to_pandas())
    assert pq.read_table(tmp_path / "out" / "index.parquet").num_rows == len(SIZES)


def test_bad_files_are_named_and_skipped(model, photos, tmp_path):
    """Whatever their names: cut off, claiming anything, no files, videos that are none."""
    (photos / "3.png").write_bytes((photos / "3.png").read_bytes()[:60])  # cut off
    bad = photos / "bad"
    bad.mkdir()
    reasons = {photos / "3.png": "not a readable image", **write_bad_files(bad)}
    reasons[bad / "clip.mp4"] = "frame 0 cannot be decoded"
    reasons[Path(os.fsdecode(os.fsencode(bad) + b"/\xff.avi"))] = "must be in UTF-8"
    for name in ("clip.mp4", os.fsdecode(b"\xff.avi")):
        (bad / name).write_bytes(b"no video")
    out = tmp_path / "out"
    arguments = [photos, out, "--model", model[0], "--checkpoint", model[1], "--stages", 1]
    done = call_tool("extract_features.py", *arguments, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"features of {len(SIZES) - 1} images" in done.stderr
    rows = {row["path"]: row for row in read_index(out).to_pylist()}
    assert {path for path, row in rows.items() if row["status"] != "ok"} == set(
        map(as_text, reasons)
    )
    for path, reason in reasons.items():
        assert reason in rows[as_text(path)]["error"]
        (line,) = (x for x in done.stderr.splitlines() if f"skipped {on_one_line(path)}: " in x)
        assert reason in line
    with pytest.raises(ValueError, match=r"text\.jpg has no features: not a readable image"):
        load_features(out, rows[str(bad / "text.jpg")], 1)
    row = rows[str(photos / "4.png")]
    expected = alone(model, row["path"], 1).mean(dim=(1, 2))
    torch.testing.assert_close(load_features(out, row, 1), expected, rtol=1e-4, atol=1e-5)


def test_an_image_that_needs_too_much_memory_is_named_and_skipped(model, photos, tmp_path):
    """A batch that does not fit is tried image by image."""
    job = Job(tmp_path / "out", find_items(str(photos)), ExtractorSettings(*model, stages=(1,)))
    job.start()
    worker = ShardWorker(job, "cpu")
    extract = worker.extractor

    class Small:
        batch_size = extract.batch_size

        def __call__(self, images):
            if sum(image.size for image in images) > 3 * 40 * 40:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return extract(images)

    worker.extractor = Small()
    assert worker.run(0) == 2
    rows = write_index(job.out, 1).to_pylist()
    assert {row["path"]: row["error"] for row in rows if row["status"] != "ok"} == {
        str(photos / f"{index}.png"): "too large for the memory: 61x33 pixels" for index in (0, 4)
    }
    expected = alone(model, rows[3]["path"], 1).mean(dim=(1, 2))
    torch.testing.assert_close(load_features(job.out, rows[3], 1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_killed_job_goes_on_where_it_was(model, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(120):
        pixels = np.full((64, 64, 3), index, np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")
    out = tmp_path / "out"
    arguments = [folder, out, "--model", model[0], "--checkpoint", model[1], "--stages", 1]
    command = [sys.executable, str(ROOT / "tools" / "extract_features.py"), *map(str, arguments)]
    process = subprocess.Popen(
        [*command, "--shard-size", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(list(out.glob("shards/0*.parquet"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in out.glob("shards/0*.parquet")}
    assert 5 <= len(done) < 60, "killed too early or too late to show anything"
    assert not (out / "index.parquet").exists()

    again = call_tool("extract_features.py", *arguments, "--shard-size", "2")
    assert f"{len(done)} of 60 shards are there" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in done} == done
    index = read_index(out).to_pylist()
    assert [Path(row["path"]).stem for row in index] == [f"{i:03d}" for i in range(120)]
    assert len({load_features(out, row, 1).numpy().tobytes() for row in index}) > 100
    assert not list(out.rglob("*.unfinished"))


def test_a_shard_cut_off_between_its_two_files_is_done_again(model, photos, tmp_path, monkeypatch):
    """A crash after the values were written, before the rows were."""
    settings, items = ExtractorSettings(*model, stages=(1,)), find_items(str(photos))
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_job(tmp_path / "out", items, settings)
    assert (tmp_path / "out" / "shards" / "00000.safetensors").exists()
    assert Job(tmp_path / "out", items, settings, 3).start() == [0, 1, 2]
    index, _ = run_job(tmp_path / "out", items, settings)
    assert len(index) == len(SIZES)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"stages": (0,)}, "settings"), ({"pooled": False}, "settings"), ({}, "items")],
)
def test_another_job_in_the_same_folder_is_refused(change, named, model, photos, tmp_path):
    settings, items = ExtractorSettings(*model, stages=(1,)), find_items(str(photos))
    Job(tmp_path / "out", items, settings, 3).start()
    other = ExtractorSettings(*model, **{"stages": (1,), **change})
    with pytest.raises(ValueError, match=f"holds a job with other {named}"):
        Job(tmp_path / "out", items if change else items[1:], other, 3).start()


def test_frames_of_a_video_are_items(model, tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (48, 32))
    for index in range(7):
        writer.write(np.full((32, 48, 3), 30 * index, np.uint8))
    writer.release()
    assert find_items(str(path), every=3) == [Item(str(path), frame) for frame in (0, 3, 6)]
    index, _ = run_job(
        tmp_path / "out",
        find_items(str(path), 2),
        ExtractorSettings(*model, stages=(1,)),
        shard_size=2,
    )
    assert [row["frame"] for row in index] == [0, 2, 4, 6]
    image = np.full((32, 48, 3), 30 * 4, np.uint8)
    expected = Extractor(ExtractorSettings(*model, stages=(1,)), "cpu")([image])[0][0]
    actual = load_features(tmp_path / "out", index[2], 1)
    torch.testing.assert_close(actual, expected, rtol=0.05, atol=0.05)  # the video is compressed


def test_inputs_are_folders_globs_lists_and_single_images(photos, tmp_path):
    everything = [Item(str(photos / f"{index}.png")) for index in range(len(SIZES))]
    assert find_items(str(photos)) == everything
    assert find_items(f"{photos}/[01].png") == everything[:2]
    assert find_items(str(photos / "2.png")) == everything[2:3]
    listed = tmp_path / "list.txt"
    listed.write_text(f"{photos}/1.png\n\n{photos}/0.png\n")
    assert find_items(str(listed)) == [everything[1], everything[0]]
    with pytest.raises(FileNotFoundError, match="names no image, video"):
        find_items(str(tmp_path / "nowhere"))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra 'ray'")
def test_two_workers_on_ray_do_what_one_process_does(model, photos, tmp_path):
    (photos / "8.jpg").write_text("no image")
    settings = ExtractorSettings(*model, stages=(0, 1))
    expected, _ = run_job(tmp_path / "local", find_items(str(photos)), settings)
    arguments = [photos, tmp_path / "ray", "--model", model[0], "--checkpoint", model[1]]
    arguments += ["--stages", 0, 1, "--shard-size", 3, "--engine", "ray", "--workers", 2]
    assert run_tool("extract_features.py", *arguments, check=False).returncode == 1
    assert read_index(tmp_path / "ray").to_pylist() == expected
    for row in expected[:-1]:
        for stage in (0, 1):
            one, other = (load_features(tmp_path / out, row, stage) for out in ("local", "ray"))
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_features_of_random_weights_are_said_to_be(model):
    config, checkpoint = model
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Extractor(ExtractorSettings(config, checkpoint, (1,)), "cpu")
    with pytest.warns(UserWarning, match="the features are those of random weights"):
        Extractor(ExtractorSettings(config, None, (1,)), "cpu")
