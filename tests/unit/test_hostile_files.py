"""Files that want to do harm are refused where files are read, in little memory.

``tests/integration/test_hostile_checkpoints.py`` offers them to every way in.
"""

import io
import resource
from contextlib import contextmanager
from pathlib import Path

from helpers.hostile_files import hostile_files

from swin_backbone.checkpoints import CheckpointError, read_checkpoint


@contextmanager
def memory_limit(more):
    """Allocating over ``more`` bytes beyond what this process has is a ``MemoryError`` within."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_each_is_refused():
    faults = {}
    for what, content in hostile_files().items():
        try:
            with memory_limit(2**30):
                read_checkpoint(io.BytesIO(content))
        except CheckpointError:
            continue
        except BaseException as error:  # whatever it is, the name of the file is wanted
            faults[what] = repr(error)[:200]
        else:
            faults[what] = "was read"
    assert not faults
