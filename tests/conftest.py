"""Fixtures for all tests; what is collected without a GPU; what a run says at its end; random
numbers that a failure tells how to draw again."""

import gc
import logging
import os
import random
import sys
from pathlib import Path

import numpy
import pytest
import torch
from helpers.scenes import write_scenes
from helpers.skipped import lines_of_reasons

# The suite is spread over cores by processes (pytest -n); threads would wait for one another.
torch.set_num_threads(1)

# Without a GPU, Triton's kernels run in its interpreter. It is read when triton is imported.
HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS.parent / "benchmarks"))  # programs, which import each other


def pytest_ignore_collect(collection_path):
    """Grids of hundreds of cases are not even listed where none of them can run."""
    return True if collection_path == TESTS / "gpu" and not HAS_GPU else None


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(config, items):
    for item in items:
        if TESTS / "gpu" in item.path.parents:
            item.add_marker(pytest.mark.gpu)
    if not HAS_GPU:
        without = [item for item in items if item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in without]


@pytest.hookimpl(tryfirst=True)  # fixtures draw, too
def pytest_runtest_setup(item):
    """Each test draws other numbers in each run; a failure names the seed that draws them again."""
    set_modules_aside(item.config.stash)
    seed = int(os.environ.get("SWIN_TEST_SEED") or torch.seed() % 2**32)
    for start in (torch.manual_seed, numpy.random.seed, random.seed):
        start(seed)
    item.add_report_section("call", "seed", f"the same numbers again: SWIN_TEST_SEED={seed}")


#: How many modules had been imported when they were set aside.
IMPORTED = pytest.StashKey[int]()


def set_modules_aside(stash):
    """The garbage collector need not look through what stays. mmengine calls it for each data set,
    and all of OpenMMLab's, PyTorch's and transformers' modules take 0.4 s each time."""
    if len(sys.modules) > stash.get(IMPORTED, 0) + 100:
        gc.collect()
        gc.freeze()
        stash[IMPORTED] = len(sys.modules)


def pytest_terminal_summary(terminalreporter):
    """What did not run, by reason, in at most five lines."""
    lines = [] if HAS_GPU else ["not collected, as there is no CUDA device: tests/gpu, marks 'gpu'"]
    reasons = [report.longrepr[2] for report in terminalreporter.getreports("skipped")]
    lines += lines_of_reasons(reasons, most=5 - len(lines))
    for line in lines:
        terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def give_back_memory():
    """Processes that test on one GPU do not keep its memory from each other."""
    yield
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@pytest.fixture(autouse=True)
def global_settings():
    """A test that leaves gradients switched off, or another dtype, would break later ones; so would
    what it calls break a user's process."""
    yield
    left = torch.is_grad_enabled(), torch.get_default_dtype(), logging.root.manager.disable
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    logging.disable(logging.NOTSET)
    assert left == (True, torch.float32, 0), "left as they were not: gradients, dtype, logging"


@pytest.fixture(autouse=True)
def nothing_of_other_tests():
    """mmengine keeps the scope of whatever was built last, and looks for classes there first; and
    loggers, which write to streams that pytest has closed by now. With these, a test would pass or
    fail by what its worker had run before."""
    for module, name in (("registry", "DefaultScope"), ("logging", "MMLogger")):
        if f"mmengine.{module}" in sys.modules:
            getattr(sys.modules[f"mmengine.{module}"], name)._instance_dict.clear()


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """Folder of a small generated segmentation data set of many sizes; not to be changed."""
    return write_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="session")
def script_environment():
    """Environment in which a script finds the tests' helpers."""
    paths = [str(TESTS), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
