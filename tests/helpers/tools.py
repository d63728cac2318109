"""The commands under ``tools/``: run as users run them, or imported."""

import importlib.util
import os
import subprocess
import sys

from .paths import TOOLS


def run_tool(name, *arguments, check=True, **environment):
    """Run ``tools/name`` in a process of its own, and say what it printed where it fails."""
    command = [str(TOOLS / name)] if name.endswith(".sh") else [sys.executable, str(TOOLS / name)]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if check:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def load_tool(name):
    """The module of ``tools/name.py``, freshly read."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
