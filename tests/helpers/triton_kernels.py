"""Where tests of the Triton kernels run: on a GPU, or on the CPU in Triton's interpreter.

Importing this skips a test module where there is neither.
"""

import pytest
import torch
from packaging.version import Version

from swin_backbone.ops import dispatch

from .checked_memory import check_accesses
from .quick_interpreter import hurry

triton = pytest.importorskip("triton", reason="triton is not installed")
HAS_GPU = torch.cuda.is_available()
if not HAS_GPU and Version(triton.__version__) < Version("3.2"):
    pytest.skip("this Triton's interpreter fails with numpy 2", allow_module_level=True)
DEVICE = "cuda" if HAS_GPU else "cpu"  # on the CPU in the interpreter, see conftest.py
#: Why an access outside of a kernel's tensors is no error here, or ``None``.
UNCHECKED = "on a GPU, see tests/sanitizer.py" if HAS_GPU else check_accesses()
if not HAS_GPU:
    hurry(triton.runtime.interpreter)


def let_kernels_run(monkeypatch):
    """Norms, patch embedding and merging by their kernels wherever these can run, be it in Triton's
    interpreter, which nothing takes by itself.

    Returns:
        What was decided from then on, in a list that grows.
    """
    decided = []
    for table in ("NORM", "MERGING"):
        ways = tuple((way, lambda *arguments: None) for way, _ in getattr(dispatch, table))
        monkeypatch.setattr(dispatch, table, ways)
    monkeypatch.setattr(dispatch, "norm_by_triton", lambda *arguments: None)
    monkeypatch.setattr(dispatch, "listeners", [decided.append])
    return decided
