"""Missing optional packages are named with what installs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.tools import HUNG

#: A package that is hidden, a command that needs it, with arguments, and the extra that has it.
CASES = {
    "pyarrow": ("tools/extract_features.py", ["photos", "out", "--model", "tiny"], "features"),
    "sklearn": ("tools/linear_probe.py", ["tiny", "random", "--data", "data"], "probe"),
    "gradio": ("tools/demo_app.py", ["upernet_demo-112x112", "checkpoint.pth"], "demo"),
}


@pytest.mark.parametrize(
    "package",
    [
        "pyarrow",
        *(pytest.param(name, marks=pytest.mark.slow) for name in CASES if name != "pyarrow"),
    ],
)
def test_a_tool_says_what_to_install(package):
    tool, arguments, extra = CASES[package]
    script = (
        f"import sys; sys.path.insert(0, 'tools'); sys.modules[{package!r}] = None\n"
        f"sys.argv[1:] = {arguments!r}\n"
        f"import runpy; runpy.run_path({tool!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=HUNG,
    )
    assert done.returncode == 2
    message = done.stderr.splitlines()[-1]
    assert message.startswith(f"swin-backbone {Path(tool).stem.replace('_', '-')}: error: ")
    assert package in message
    assert f"pip install 'swin-backbone[{extra}]'" in message


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_export_says_what_to_install(package, monkeypatch, tmp_path):
    from swin_backbone.inference.export import formats, load

    for other in ("onnx", "onnxscript"):  # what is really missing here is not what is tested
        monkeypatch.setitem(sys.modules, other, sys)
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / "model.onnx"
    path.write_text("")
    act = load if package == "onnxruntime" else lambda path: formats.write_onnx(None, None, path)
    message = rf"{package}.*pip install 'swin-backbone\[export\]"
    with pytest.raises(ModuleNotFoundError, match=message):
        act(path)
