"""Files that want to do harm are refused at every way in; nothing dies, nothing is allocated."""

import subprocess
import sys

import pytest
from helpers.tools import HUNG

pytest.importorskip("mmseg")


@pytest.mark.slow
def test_hostile_files_are_refused_by_every_way_in(scenes, script_environment, tmp_path):
    """One process takes them all: a segmentation fault would be its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "helpers.hostile_ways", str(scenes), str(tmp_path)],
        env={**script_environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=HUNG,
    )
    faults = [line for line in done.stdout.splitlines() if line.startswith("FAULT")]
    assert not faults, "\n".join(faults[:20])
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    assert done.stdout.splitlines()[-1] == "survived"
