"""The command ``swin-backbone``: every tool, by name or by path, and what it needs to start."""

import ast
import csv
import importlib
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.small_models import write_segmentor
from helpers.tools import HUNG

import swin_backbone
from swin_backbone import extras
from swin_backbone.cli import argument_types, entry, main

PACKAGE = Path(swin_backbone.__file__).parent
ROOT = PACKAGE.parent
TOOLS = sorted(
    p for p in (ROOT / "tools").glob("*.py") if "swin_backbone.cli import main" in p.read_text()
)
DEMO = "swin-demo_upernet_demo-112x112"


def run(words, capsys):
    """Exit status, and what was printed to stdout and to stderr."""
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code
    return status, *capsys.readouterr()


def test_every_module_with_a_main_is_a_command():
    modules = {path.stem for path in (PACKAGE / "cli").glob("*.py")}
    modules -= {"__init__", "entry"}
    found = {
        m for m in modules if hasattr(importlib.import_module(f"swin_backbone.cli.{m}"), "main")
    }
    assert {name.replace("_", "-") for name in found} == set(entry.COMMANDS)


@pytest.mark.parametrize("name", entry.COMMANDS)
def test_each_command_has_help_and_a_version(name, capsys):
    status, printed, _ = run([name, "--help"], capsys)
    assert status == 0
    assert printed.startswith(f"usage: swin-backbone {name}")
    assert run([name, "--version"], capsys)[:2] == (
        0, f"swin-backbone {swin_backbone.__version__}\n"
    )  # fmt: skip
    status, _, printed = run([name, "--no-such-option"], capsys)
    assert status == 2
    assert re.fullmatch(rf"swin-backbone {name}: error: [^\n]*\n", printed)


def test_the_help_lists_every_command(capsys):
    printed = run(["--help"], capsys)[1]
    for name, about in entry.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(about)}$", printed, re.M)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.name)
def test_tools_of_openmmlab_are_the_commands(tool, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(tool), "--help"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(tool), run_name="__main__")
    assert caught.value.code == 0
    name = tool.stem.replace("_", "-")
    assert capsys.readouterr().out.startswith(f"usage: swin-backbone {name} ")


@pytest.mark.parametrize("name", [DEMO, f"demo/{DEMO}", "upernet_demo-112x112"])
def test_a_config_is_found_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = swin_backbone.config_path(DEMO)
    assert argument_types.config(name) == argument_types.backbone(name) == path
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("model = None")  # a file comes before a name
    assert argument_types.config(name) == name


def test_names_of_backbones_stay_names():
    for name in (*swin_backbone.list_architectures(), swin_backbone.list_checkpoints()[0].name):
        assert argument_types.backbone(name) == name


def test_every_optional_package_has_an_extra_that_errors_name():
    everywhere = {"torch", "numpy", "filelock", "packaging", "safetensors", "triton"}
    imported = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.partition(".")[0])
    known = everywhere | extras.EXTRAS.keys() | sys.stdlib_module_names | {"swin_backbone"}
    assert imported - known == set()
    declared = (ROOT / "pyproject.toml").read_text()
    for extra in ",".join(extras.EXTRAS.values()).split(","):
        assert re.search(rf"^{extra} = \[", declared, re.M), extra


def test_without_openmmlab_commands_run_or_say_what_to_install(tmp_path):
    """Where torch and the core's own needs are all there is."""
    script = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests" / "helpers")!r})
from torch_alone import hide
hide()
from swin_backbone import SwinBackbone
from swin_backbone.cli import main
import json, torch
model = SwinBackbone(embed_dims=8, depths=(1,), num_heads=(1,), out_indices=(0,), strides=(4,))
torch.save(model.state_dict(), "in.pth")
found = {{}}
for words in (["env"], ["convert-checkpoint", "in.pth", "out.pth", "--to", "timm"],
              ["export", "tiny", "--part", "backbone", "--help"], ["train", "mine.py"],
              ["predict", "a", "b", "c", "--out", "d"], ["visualize", "tiny", "random", "x"],
              ["extract-features", "x", "y", "--model", "tiny"], ["demo-app", "a", "b"]):
    try:
        found[words[0]] = main(words)
    except SystemExit as end:
        found[words[0]] = end.code
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=HUNG,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {name for name, status in found.items() if status == 0} == {
        "env", "convert-checkpoint", "export"
    }  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if ": error: " in line]
    assert len(lines) == 5, done.stderr
    assert all("pip install 'swin-backbone[" in line for line in lines), lines


@pytest.fixture(scope="module")
def segmentor(tmp_path_factory):
    return str(write_segmentor(tmp_path_factory.mktemp("segmentor"))[0])


def test_the_benchmark_times_every_way_of_a_configs_model(segmentor, tmp_path, capsys):
    words = ["benchmark", segmentor, "--size", "40", "48", "--batch", "1", "--repeats", "1"]
    assert run([*words, "--csv", str(tmp_path / "times.csv")], capsys)[0] == 0
    rows = list(csv.DictReader((tmp_path / "times.csv").open()))
    assert [(row["mode"], row["way"]) for row in rows] == [
        (mode, way) for mode in ("predict", "train") for way in ("stock", "config", "accelerated")
    ]
    assert [row["backbone"] for row in rows[:2]] == ["SwinTransformer", "SwinBackbone"]
    for row in rows:
        assert not row["note"]
        assert float(row["images_per_second"]) == pytest.approx(1e3 / float(row["ms"]))


def test_the_benchmark_says_where_there_is_no_stock_backbone(segmentor, tmp_path, capsys):
    words = ["benchmark", segmentor, "--size", "40", "48", "--repeats", "1", "--modes", "predict"]
    changed = ["--cfg-options", "model.backbone.version=v2"]
    status, _, _ = run([*words, "--csv", str(tmp_path / "x.csv"), *changed], capsys)
    assert status == 0
    rows = {row["way"]: row for row in csv.DictReader((tmp_path / "x.csv").open())}
    assert "no Swin Transformer V2" in rows["stock"]["note"]
    assert not rows["stock"]["ms"]
    assert float(rows["config"]["ms"]) > 0


def test_the_stock_backbone_has_the_same_weights(segmentor):
    from swin_backbone.openmmlab.mmengine_configs import read_config
    from swin_backbone.openmmlab.stock_backbones import with_stock_backbone
    from swin_backbone.openmmlab.whole_models import build_whole_model

    cfg = read_config(segmentor)
    counts = [
        sum(parameter.numel() for parameter in build_whole_model(one).backbone.parameters())
        for one in (cfg, with_stock_backbone(cfg))
    ]
    assert counts[0] == counts[1]
