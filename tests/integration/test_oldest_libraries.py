"""The oldest versions of transformers, timm and torchvision that users still have, each installed
beside the environment: accelerated encoders compute the same.

    python -m pytest -s tests/integration/test_oldest_libraries.py      # prints the table
"""

import json
import os
import subprocess
import sys

import pytest
from helpers.paths import ROOT

#: What is installed, without what it requires but does not bring.
OLDEST = {
    "transformers": ["transformers==4.46.3", "tokenizers==0.20.3", "huggingface_hub==0.36.2"],
    "timm": ["timm==0.9.16"],
    "torchvision": ["torchvision==0.19.1"],
}
TOLERANCES = {"torch.float32": 1e-5, "torch.float64": 1e-10}


def install(library):
    """The folder that holds the old version; what cannot be had is a skip that says so."""
    folder = ROOT / ".venv-oldest" / OLDEST[library][0]
    if not folder.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        made = folder.with_name(f"{folder.name}.{os.getpid()}")
        command = [*pip, "--target", str(made), *OLDEST[library]]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            pytest.skip(f"{OLDEST[library][0]} cannot be installed: {result.stderr[-200:]}")
        made.rename(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("library", OLDEST)
def test_parity_with_the_oldest_version(library):
    program = ROOT / "tests" / "helpers" / "parity_of_a_version.py"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    result = subprocess.run(
        [sys.executable, str(program), library, str(install(library))],
        env={**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    rows = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert len(rows) == 12
    for row in rows:
        print(row)
        assert f"{library}=={row['number']}" == OLDEST[library][0]
        assert row["blocks"] == 4
        assert not row["left"]
        assert max(row["maps"], row["gradients"]) <= TOLERANCES[row["dtype"]]
