"""The command ``swin-backbone``: its report of an environment, and how it ends."""

import re
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch

import swin_backbone
from swin_backbone.cli import main
from swin_backbone.ops import BACKENDS, dispatch


@pytest.fixture
def env(capsys):
    """The report's values, by their names."""

    def run():
        assert main(["env"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len({line.index(line.split("  ", 1)[1].lstrip()) for line in lines}) == 1  # a column
        return {name: value.strip() for name, value in (line.split("  ", 1) for line in lines)}

    return run


def test_the_report_says_what_is_here(env, monkeypatch):
    monkeypatch.setenv("SWIN_BACKBONE_TUNE", "0")
    values = env()
    assert values["swin-backbone"] == f"{swin_backbone.__version__} (from a checkout)"
    assert values["torch"].startswith(torch.__version__)
    assert values["SWIN_BACKBONE_TUNE"] == "0"
    assert "threads" in values["cpu"]
    assert "attention by 'cpu'" in values["on cpu"]
    assert "FAILS" not in values["on cpu"]
    if not torch.cuda.is_available():
        assert re.fullmatch("none that torch can use: .*(NVIDIA|CUDA|visible).*", values["gpu"])


def test_a_way_that_fails_is_reported_with_its_error(env, monkeypatch):
    def no_compiler(inputs):
        raise RuntimeError("no C compiler\nis found")

    monkeypatch.setitem(BACKENDS, "cpu", no_compiler)
    answer = "attention by 'cpu', which FAILS (RuntimeError: no C compiler is found)"
    assert answer in env()["on cpu"]


def test_kinds_of_models_with_other_answers_have_lines_of_their_own(capsys, monkeypatch):
    def only_float32(inputs):
        return None if inputs.qkv.dtype == torch.float32 else "only float32"

    monkeypatch.setitem(dispatch.ATTENTION, "cpu", only_float32)
    main(["env"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("on cpu")]
    assert len(lines) == 2
    assert "float32: attention by 'cpu'" in lines[0]
    assert "float32 in bfloat16 autocast, bfloat16, float16: attention by 'sdpa'" in lines[1]
    assert "not 'cpu' (only float32)" in lines[1]


def test_the_report_tells_who_serves_mmcvs_ops(env, monkeypatch):
    pytest.importorskip("mmcv")
    compiled = ModuleType("mmcv._ext")
    compiled.__spec__ = ModuleSpec("mmcv._ext", loader=None)
    monkeypatch.setitem(sys.modules, "mmcv._ext", compiled)
    assert env()["mmcv's ops"] == "compiled"
    monkeypatch.setitem(sys.modules, "mmcv._ext", None)
    assert env()["mmcv's ops"].startswith("cannot be loaded: ")
    monkeypatch.delitem(sys.modules, "mmcv._ext")
    assert env()["mmcv's ops"] == "served by swin_backbone"
    monkeypatch.setitem(sys.modules, "mmcv", None)
    assert env()["mmcv's ops"] == "no mmcv"


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["--help"], 0, "usage: swin-backbone"),
        (["env", "--help"], 0, "usage: swin-backbone env"),
        (["--version"], 0, f"swin-backbone {swin_backbone.__version__}\n"),
        ([], 2, "swin-backbone: error: the following arguments are required: COMMAND"),
        (["nonsense"], 2, "swin-backbone: error: argument COMMAND: invalid choice: 'nonsense'"),
        (["env", "--nonsense"], 2, "swin-backbone env: error: unrecognized arguments: --nonsense"),
    ],
)
def test_status_and_words(words, status, text, capsys):
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == status
    captured = capsys.readouterr()
    printed = captured.err if status else captured.out
    assert printed.startswith(text)
    assert not status or len(printed.splitlines()) == 1
