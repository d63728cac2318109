"""Kernels compile for cards, on a machine without one: what Triton's interpreter does not see.

All launches of models' training steps and predictions, and so all kernels, with the launch
parameters that ship, for an H100 and its kin (compute capability 9.0), whose programs have 227 KiB
of shared memory.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
from swin_backbone.ops.triton.kernels import all_kernels

SCRIPT = Path(__file__).parents[1] / "helpers" / "variants_of_kernels.py"
SHARED_BYTES = 227 * 1024
CASES = ("v1:7:bfloat16", "v1:12:bfloat16", "v1:24:bfloat16", "v2:8:bfloat16")
CASES += ("detector:7:bfloat16", "segmentor:150:bfloat16")


def run(folder, *arguments, interpreted=False):
    environment = {**os.environ, "TRITON_INTERPRET": "1" if interpreted else "0"}
    environment["TRITON_CACHE_DIR"] = str(folder / "cache")
    paths = [str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")]  # for helpers of the tests
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_every_launch_compiles_and_fits(tmp_path):
    run(tmp_path, "collect", tmp_path / "variants.pkl", *CASES, interpreted=True)
    found = [
        json.loads(line)
        for line in run(tmp_path, "compile", tmp_path / "variants.pkl", 90).splitlines()
    ]
    assert len(found) > 100  # a model alone has some 60
    assert not all_kernels().keys() - {kernel["kernel"] for kernel in found}
    wrong = [kernel for kernel in found if kernel["error"] or kernel["shared"] > SHARED_BYTES]
    assert not wrong, wrong
