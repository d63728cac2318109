"""The page to try a model: uploads, and the page itself in a headless browser."""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.image_files import png_header
from helpers.paths import ROOT
from PIL import Image

from swin_backbone.inference.hosts import HostCheck
from swin_backbone.inference.uploads import Limits, RefusedError, open_upload

#: Of the segmentor, which has the demo's.
CLASSES = {"ground", "sky", "disc", "box", "triangle", "striped"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
CONFIG = next((ROOT / "configs" / "demo").glob("swin-demo_upernet_demo-*.py"))
DETECTOR = next((ROOT / "configs" / "swin_det").glob("mask-rcnn_*_nuclei.py"))


def test_an_image_is_decoded_as_rgb(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    assert np.array_equal(open_upload(tmp_path / "grey.png", Limits()), np.dstack([pixels] * 3))


@pytest.mark.parametrize(
    ("content", "limits", "message"),
    [
        (b"no image at all", Limits(), "no readable image"),
        (png_header(40, 40)[:60], Limits(), "no readable image"),
        (b"x" * 2_000_000, Limits(megabytes=1), "2.0 MB; at most 1 MB"),
        (png_header(6000, 5000), Limits(), "6000x5000 pixels; at most 25 megapixels"),
        (png_header(100_000, 100_000), Limits(), "far too many pixels"),
        (png_header(20_000, 2), Limits(), "a side may have at most 16384"),
        (b"", Limits(), "no readable image"),
    ],
)
def test_what_is_refused_is_said_in_a_sentence(content, limits, message, tmp_path):
    (tmp_path / "upload").write_bytes(content)
    with pytest.raises(RefusedError, match=re.escape(message)):
        open_upload(tmp_path / "upload", limits)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """Config and checkpoint of a small detector with random weights, of one class."""
    pytest.importorskip("mmdet")
    from helpers.small_detector import small_detector
    from mmdet.registry import MODELS
    from mmengine.registry import init_default_scope

    folder = tmp_path_factory.mktemp("detector")
    cfg = small_detector(DETECTOR)
    cfg.dump(folder / "detector.py")
    init_default_scope("mmdet")
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    meta = {"dataset_meta": {"classes": ("nucleus",), "palette": [(0, 255, 0)]}}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, folder / "detector.pth")
    return str(folder / "detector.py"), str(folder / "detector.pth")


def test_a_detectors_boxes_are_drawn(detector, tmp_path):
    """Those that mmdet's own function finds, with the most certain one on top."""
    pytest.importorskip("gradio", reason="needs the extra 'demo'")
    from mmdet.apis import inference_detector

    from swin_backbone.cli.demo_app import Page, load_model
    from swin_backbone.inference.painters import LEAST_SCORE, distinct_colour

    photo(tmp_path)
    model = load_model(*detector, "cpu")
    page = Page({"a detector": model}, Limits())
    message, (image, picture), shares, stages = page.answer(
        str(tmp_path / "photo.png"), "a detector"
    )
    assert message.startswith("90x61 pixels: reading ")
    assert picture.size == image.size == (90, 61)
    assert re.search(r"<td>nucleus</td>.*\d+\.\d %", shares)
    assert np.array_equal(image, Image.open(tmp_path / "photo.png"))
    assert len(stages) == len(model.network.backbone.out_indices)
    pixels = np.asarray(Image.open(tmp_path / "photo.png"))
    found = inference_detector(model.network, np.ascontiguousarray(pixels[..., ::-1]))
    found = found.pred_instances[found.pred_instances.scores >= LEAST_SCORE]
    left, top, right, bottom = found.bboxes[found.scores.argmax()].int().tolist()
    drawn = np.asarray(picture)
    for line in (drawn[top, left:right], drawn[top:bottom, left]):
        assert len(line) > 1
        assert (line == distinct_colour(0)).all()


class Recorder:
    """Takes the place of a model."""

    network = "of the model"  # an exported file has none

    def look(self, image):
        self.seen = image
        from swin_backbone.inference.painters import Seen

        return Seen(Image.new("RGB", image.shape[1::-1]), [])


@pytest.fixture
def recorded(monkeypatch):
    """A page, and what its model and its pictures of the stages got."""
    demo_app = pytest.importorskip("swin_backbone.cli.demo_app", reason="needs the extra 'demo'")
    model = Recorder()
    monkeypatch.setattr(
        demo_app, "stage_pictures", lambda network, image: setattr(model, "staged", image) or []
    )
    return demo_app.Page({"model": model}, Limits(work_megapixels=0.5)), model


def test_no_more_pixels_are_worked_on_than_the_limit(recorded, tmp_path):
    """24 megapixels; what is within the limit is seen as it is."""
    page, model = recorded
    Image.new("RGB", (6000, 4000), (9, 8, 7)).save(tmp_path / "large.png")
    message, *_ = page.answer(str(tmp_path / "large.png"), "model")
    assert message.startswith("6000x4000 pixels, seen as 866x577: reading ")
    assert (model.seen.shape, model.staged.shape) == ((577, 866, 3), (408, 612, 3))
    assert tuple(model.seen[0, 0]) == (7, 8, 9)  # BGR
    photo(tmp_path)
    message, *_ = page.answer(str(tmp_path / "photo.png"), "model")
    assert message.startswith("90x61 pixels: reading ")
    assert np.array_equal(model.staged, np.asarray(Image.open(tmp_path / "photo.png")))


def test_what_goes_wrong_is_said_on_the_page(recorded, tmp_path, monkeypatch):
    page, model = recorded
    message, *_ = page.answer(str(tmp_path / "deleted.png"), "model")
    assert message == "**Refused.** The file is not kept any more; drop it again."
    photo(tmp_path)

    def paint(image):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 B")

    monkeypatch.setattr(model, "look", paint)
    message, *outputs = page.answer(str(tmp_path / "photo.png"), "model")
    assert message == "90x61 pixels: more than the memory holds."
    assert outputs == [None, "", []]


def test_uploads_are_kept_for_ten_minutes(recorded):
    assert recorded[0].build().delete_cache == (60, 600)


def segmentor_checkpoint(folder):
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    init_default_scope("mmseg")
    model = MODELS.build(Config.fromfile(CONFIG).model)
    model.init_weights()
    torch.save({"state_dict": model.state_dict(), "meta": {}}, folder / "segmentor.pth")
    return str(folder / "segmentor.pth")


def test_a_segmentor_sees_large_images_in_tiles(tmp_path, monkeypatch):
    demo_app = pytest.importorskip("swin_backbone.cli.demo_app", reason="needs the extra 'demo'")
    monkeypatch.setattr(demo_app, "TILES", demo_app.Sliding("auto", window=48, large=48 * 48))
    model = demo_app.load_model(str(CONFIG), segmentor_checkpoint(tmp_path), "cpu")
    sizes = []
    model.network.backbone.register_forward_pre_hook(
        lambda _, inputs: sizes.append(tuple(inputs[0].shape[2:]))
    )
    assert model.paint(np.zeros((60, 100, 3), np.uint8)).width > 100
    assert set(sizes) == {(48, 48)}
    assert len(sizes) == 2 * 3


@pytest.mark.parametrize(
    ("host", "names", "own", "foreign"),
    [
        ("127.0.0.1", [], ["127.0.0.1:7860", "localhost", "LOCALHOST.:80", "[::1]:7860"],
         ["evil.example", "evil.example:7860", "192.168.0.7", "127.0.0.1.evil.example", "",
          "localhost@evil.example", "[::1", "0.0.0.0", "127.0.0.1, evil.example"]),
        ("0.0.0.0", ["lab.example"], ["localhost", "192.168.0.7:7860", "[fe80::1]", "lab.example",
         "Lab.Example:7860", socket.gethostname()], ["evil.example", "lab.example.evil", ""]),
    ],
)  # fmt: skip
def test_requests_for_another_host_are_foreign(host, names, own, foreign):
    check = HostCheck(None, host, names)
    assert [name for name in own if not check.takes(name)] == []
    assert [name for name in foreign if check.takes(name)] == []


needs_browser = pytest.mark.skipif(
    CHROMIUM is None or not all(map(importlib.util.find_spec, ("gradio", "playwright"))),
    reason="needs the extra 'demo', playwright, and chromium",
)


@pytest.fixture(scope="module")
def address(tmp_path_factory, detector):
    """The page, served with a small segmentor and a small detector; it leaves nothing behind."""
    folder = tmp_path_factory.mktemp("page")
    temporary = folder / "temporary"
    temporary.mkdir()
    models = [str(CONFIG), segmentor_checkpoint(folder), *detector]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = open(folder / "log", "w")  # noqa: SIM115 (closed with the process)
    command = [sys.executable, str(ROOT / "tools" / "demo_app.py"), *models, "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--max-megabytes", "1"],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "GRADIO_ANALYTICS_ENABLED": "False",
            "TMPDIR": str(temporary),
        },
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5)
            break
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    yield url
    process.terminate()
    process.wait(30)
    log.close()
    assert not [path for path in temporary.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser, address):
    page = browser.new_page()
    page.set_default_timeout(90_000)
    page.goto(address)
    yield page
    page.close()


def upload(page, name, content):
    files = [{"name": name, "mimeType": "image/png", "buffer": content}]
    page.locator("input[type=file]").first.set_input_files(files)


def wait_for_both(page):
    """The image and its prediction, of the same size, for the slider between them."""
    page.wait_for_function(
        """() => {
            const shown = [...document.querySelectorAll('#prediction img')];
            return shown.length >= 2 && shown.every(one => one.naturalWidth == 90);
        }"""
    )


def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (61, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return (tmp_path / "photo.png").read_bytes()


@needs_browser
@pytest.mark.slow
def test_an_uploaded_image_gets_its_prediction(page, tmp_path):
    upload(page, "photo.png", photo(tmp_path))
    message = page.locator("#message")
    message.get_by_text("90x61 pixels").wait_for()
    assert re.search(r"reading \d+ ms, prediction \d+ ms, features \d+ ms", message.inner_text())
    page.locator("#prediction img").first.wait_for()
    wait_for_both(page)
    shares = re.findall(r"([\w ]+)\t([\d.]+) %", page.locator("#shares").inner_text())
    assert {name.strip() for name, _ in shares} <= CLASSES
    assert sum(float(share) for _, share in shares) == pytest.approx(100, abs=0.1 * len(CLASSES))
    page.wait_for_function("document.querySelectorAll('#stages img').length >= 4")


@needs_browser
@pytest.mark.slow
def test_another_checkpoint_may_be_chosen(page, tmp_path):
    upload(page, "photo.png", photo(tmp_path))
    wait_for_both(page)
    assert "nucleus" not in page.locator("#shares").inner_text()
    page.get_by_label("checkpoint").first.click()
    page.get_by_role("option", name="detector, detector.pth").click()
    page.locator("#shares").get_by_text("nucleus").wait_for()
    wait_for_both(page)


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no image at all", "The file is no readable image"),
        (png_header(9000, 9000), "The image has 9000x9000 pixels; at most 25 megapixels"),
    ],
    ids=["text", "bomb"],
)
def test_a_bad_file_gets_its_message(content, message, page):
    upload(page, "bad.png", content)
    page.locator("#message").get_by_text(message).wait_for()
    assert page.locator("#prediction img").count() == 0


@needs_browser
@pytest.mark.slow
def test_a_file_that_is_too_large_gets_its_message(page):
    upload(page, "large.png", b"x" * 2_000_000)
    page.get_by_text(re.compile("exceed the maximum allowed size")).first.wait_for()


@needs_browser
@pytest.mark.slow
def test_the_page_listens_on_this_machine_alone(address):
    port = int(address.rsplit(":", 1)[1])
    hosts = {line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
             if line.split()[3] == "0A"}  # fmt: skip
    listening = [host for host in hosts if int(host.split(":")[1], 16) == port]
    assert listening == [f"0100007F:{port:04X}"]


@needs_browser
@pytest.mark.slow
def test_requests_for_another_host_are_refused(address):
    for host, status in (("localhost", 200), ("evil.example", 421), ("evil.example:7860", 421)):
        request = urllib.request.Request(f"{address}/config", headers={"Host": host})
        try:
            answer = urllib.request.urlopen(request, timeout=30)
        except urllib.error.HTTPError as error:
            answer = error
        assert answer.status == status
