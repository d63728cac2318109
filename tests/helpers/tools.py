"""The commands under ``tools/``: in this process, or as users run them."""

import importlib.util
import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

from swin_backbone.cli import main

from .paths import BENCHMARKS, TOOLS


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
    """What :func:`run_tool` gives for a file in ``tools/``, or for one in ``benchmarks/``, by
    calling what it calls in this process."""
    words = list(map(str, arguments))
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            code = _function_of(name.removesuffix(".py"))(words)
        except SystemExit as stop:
            code = stop.code
    done = subprocess.CompletedProcess([name, *words], code or 0, out.getvalue(), err.getvalue())
    return _checked(done) if check else done


def _checked(done):
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def _function_of(name):
    """A command of ``swin-backbone``, or the ``main(argv)`` of a benchmark."""
    if (BENCHMARKS / f"{name}.py").exists():
        return load_tool(name, BENCHMARKS).main
    return lambda words: main([name.replace("_", "-"), *words])


def load_tool(name, folder=TOOLS):
    """The module of ``tools/name.py``, freshly read."""
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
