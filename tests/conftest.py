"""Fixtures for all tests."""

import os
import sys
from pathlib import Path

import pytest
import torch
from helpers.scenes import write_scenes

# The suite is spread over cores by processes (pytest -n); threads would wait for one another.
torch.set_num_threads(1)

# Without a GPU, Triton's kernels run in its interpreter. It is read when triton is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS.parent / "benchmarks"))  # programs, which import each other


@pytest.fixture(autouse=True)
def give_back_memory():
    """Processes that test on one GPU do not keep its memory from each other."""
    yield
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """Folder of a small generated segmentation data set of many sizes; not to be changed."""
    return write_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="session")
def script_environment():
    """Environment in which a script finds the tests' helpers."""
    paths = [str(TESTS), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
