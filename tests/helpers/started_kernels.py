"""A plugin of pytest that writes down which kernels of the package its tests never started.

Their names go to the file that the environment variable ``SWIN_KERNELS_LEFT`` names, one a line.
"""

import os
from pathlib import Path

STARTED = set()


def pytest_configure():
    from swin_backbone.ops.triton.launch import Launch

    plain = Launch.__call__

    def counted(self, *tensors):
        STARTED.add(self.kernel.fn.__name__)
        return plain(self, *tensors)

    Launch.__call__ = counted


def pytest_sessionfinish():
    from swin_backbone.ops.triton.kernels import all_kernels

    left = sorted(all_kernels().keys() - STARTED)
    Path(os.environ["SWIN_KERNELS_LEFT"]).write_text("\n".join(left))
