"""The documentation builds without warnings, and every command in it is run.

Each block of ``bash`` or ``python`` in a page that is more than an excerpt follows a comment that
says who runs it::

    <!-- test: run -->                      this file does
    <!-- test: tests/test_x.py::test_y -->  that test does
    <!-- test: none, because ... -->        nobody can: it needs a cluster, the network, ...
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.tools import HUNG
from PIL import Image

from swin_backbone import create

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- test: (?P<by>[^\n]*?) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
#: What runs on a page needs beyond the package.
NEEDS = {
    "export.md": ["onnx", "onnxscript", "onnxruntime"],
    "features.md": ["pyarrow", "safetensors", "pandas"],
}
CONFIG = next((ROOT / "configs" / "demo").glob("swin-demo_upernet_demo-*.py"))


def blocks(page):
    return list(BLOCK.finditer(page.read_text()))


def is_excerpt(block):
    """Python that stands for a part of a config."""
    return block["language"] == "python" and not re.search(r"^import |^from ", block["code"], re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_has_a_test(page):
    for block in blocks(page):
        if is_excerpt(block):
            continue
        by = block["by"]
        where = f"{page.name}: {block['code'].splitlines()[0]}"
        assert by is not None, f"{where}: say who runs it, see the top of {Path(__file__).name}"
        if by == "run":
            assert page.parent.name == "docs", f"{where}: only pages of docs/ are run"
        elif by.startswith("tests/"):
            path, _, name = by.partition("::")
            assert f"def {name}(" in (ROOT / path).read_text(), f"{where}: there is no {by}"
        else:
            assert re.match(r"none, .{10}", by), f"{where}: {by!r} gives no reason"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with tools, a tiny trained model and images, in which commands are run."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "tools").symlink_to(ROOT / "tools")
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"  # no link, which would not find the environment's packages
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    command = folder / "bin" / "swin-backbone"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m swin_backbone "$@"\n')
    command.chmod(0o755)
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for index, size in enumerate([(48, 64), (61, 87), (48, 64)]):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{index}.png")
    (folder / "config.py").write_text(
        f"_base_ = ['{CONFIG}']\n"
        "model = dict(backbone=dict(depths=(1, 1), num_heads=(1, 2), strides=(4, 2),\n"
        "                           embed_dims=16, out_indices=(0, 1)),\n"
        "             decode_head=dict(in_channels=[16, 32], in_index=[0, 1], channels=16))\n"
    )
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    init_default_scope("mmseg")
    model = MODELS.build(Config.fromfile(folder / "config.py").model)
    torch.save({"state_dict": model.state_dict(), "meta": {}}, folder / "checkpoint.pth")
    return folder


#: Words of the pages, and what they stand for in the folder.
WORDS = {
    "CONFIG": "config.py",
    "CHECKPOINT": "checkpoint.pth",
    "IMAGES": "photos",
    "IMAGE": "photos/0.png",
    "--stages 2 3": "--stages 0 1",  # of the tiny model, which has two
    "stage=3": "stage=1",
    '"stage3"': '"stage1"',
    "--pixel 40 60": "--pixel 30 40",
}


def pages_that_run():
    return [page for page in PAGES if any(block["by"] == "run" for block in blocks(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_that_run(), ids=lambda page: page.name)
def test_commands_of_a_page_run(page, workplace):
    missing = [n for n in NEEDS.get(page.name, []) if importlib.util.find_spec(n) is None]
    if missing:
        pytest.skip(f"{page.name} needs {', '.join(missing)}")
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PATH": f"{workplace / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "OMP_NUM_THREADS": "1",
    }
    for block in blocks(page):
        if block["by"] != "run":
            continue
        code = block["code"]
        for word, meaning in WORDS.items():
            code = re.sub(rf"(?<![\w/.]){re.escape(word)}(?!\w)", meaning, code)
        command = (
            ["bash", "-ec", code] if block["language"] == "bash" else [sys.executable, "-c", code]
        )
        done = subprocess.run(
            command, cwd=workplace, env=environment, capture_output=True, text=True, timeout=HUNG
        )
        assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("mkdocs", "mkdocstrings", "material"))),
    reason="needs the extra 'docs'",
)
def test_the_site_builds_without_warnings(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=HUNG,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    text = (tmp_path / "site" / "api" / "index.html").read_text()
    assert "SwinBackbone" in text
    assert "softmax(q k^T * scale + bias) v" in text  # the docstrings are in it


def test_create_prints_what_the_start_page_says():
    model = create("tiny", out_indices=(1, 3))
    page = (ROOT / "docs" / "index.md").read_text()
    maps = model(torch.randn(1, 3, 97, 131))
    for info, features in zip(model.features_info, maps, strict=True):
        assert f"{info.stage} {info.channels} {info.stride} {tuple(features.shape)}" in page
