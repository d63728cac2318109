"""Where tests of the Triton kernels run: on a GPU, or on the CPU in Triton's interpreter.

Importing this skips a test module where there is neither.
"""

import pytest
import torch
from packaging.version import Version

triton = pytest.importorskip("triton", reason="triton is not installed")
HAS_GPU = torch.cuda.is_available()
if not HAS_GPU and Version(triton.__version__) < Version("3.2"):
    pytest.skip("this Triton's interpreter fails with numpy 2", allow_module_level=True)
DEVICE = "cuda" if HAS_GPU else "cpu"  # on the CPU in the interpreter, see conftest.py
