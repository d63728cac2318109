"""The commands under ``tools/``: in this process, or as users run them."""

import importlib.util
import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

from .paths import TOOLS


def run_tool(name, *arguments, check=True, **environment):
    """Run ``tools/name`` in a process of its own, and say what it printed where it fails.

    A process imports torch and OpenMMLab for many seconds; see :func:`call_tool`.
    """
    command = [str(TOOLS / name)] if name.endswith(".sh") else [sys.executable, str(TOOLS / name)]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return _checked(done) if check else done


def call_tool(name, *arguments, check=True):
    """What :func:`run_tool` gives for ``tools/name``, by calling its ``main(argv)`` here."""
    words = list(map(str, arguments))
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            code = load_tool(name.removesuffix(".py")).main(words)
        except SystemExit as stop:
            code = stop.code
    done = subprocess.CompletedProcess([name, *words], code or 0, out.getvalue(), err.getvalue())
    return _checked(done) if check else done


def _checked(done):
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def load_tool(name):
    """The module of ``tools/name.py``, freshly read."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
